package openai

import (
	"bytes"
	"cmp"
	"encoding/json"
	"html"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"matrix/llm"
)

// wireError is an error body, in the forms that servers give it: an object or
// a text under "error", the same fields at the top, or FastAPI's "detail".
type wireError struct {
	Error   json.RawMessage `json:"error"`
	Message string          `json:"message"`
	Code    json.RawMessage `json:"code"`
	Type    string          `json:"type"`
	Param   json.RawMessage `json:"param"`
	Detail  json.RawMessage `json:"detail"`
	Meta    json.RawMessage `json:"metadata"` // of OpenRouter's
}

// complaint is what an error body says.
type complaint struct {
	code   string // the code, where it is a word
	status int    // the code, where it is an HTTP status
	typ    string
	param  string // the parameter at fault
	msg    string
	text   bool // the body is not JSON
	page   bool // but a web page
}

// parseComplaint reads an error body. What it cannot read is the message.
func parseComplaint(body []byte) complaint {
	var w wireError
	body = bytes.TrimPrefix(body, []byte(bom))
	if json.Unmarshal(body, &w) != nil {
		if isPage.Match(body) {
			return complaint{msg: pageText(body), text: true, page: true}
		}
		return complaint{msg: llm.Shorten(string(body), 300), text: !json.Valid(body)}
	}
	if len(w.Error) > 0 && w.Error[0] == '{' {
		var in wireError
		if json.Unmarshal(w.Error, &in) == nil {
			w = in
		}
	}
	c := complaint{typ: w.Type, msg: w.Message}
	_ = json.Unmarshal(w.Param, &c.param) // a text, null, or nothing we know
	if c.typ == "" {
		c.typ = errorType(w.Meta)
	}
	var word string
	if json.Unmarshal(w.Code, &word) == nil && word != "" {
		c.code = word
	}
	text := strings.Trim(string(w.Code), `"`)
	if n, err := strconv.Atoi(text); err == nil {
		c.code = ""
		if n >= 400 && n <= 599 {
			c.status = n
		}
	}
	for _, raw := range []json.RawMessage{w.Error, w.Detail} {
		if c.msg != "" || !present(string(raw)) {
			continue
		}
		if json.Unmarshal(raw, &c.msg) != nil {
			c.msg = string(raw)
		}
	}
	if c.msg == "" {
		c.msg = string(body)
	}
	c.msg = llm.Shorten(c.msg, 1000)
	return c
}

var (
	isPage    = regexp.MustCompile(`(?i)^\s*(<!doctype html|<html)\b`)
	pageTitle = regexp.MustCompile(`(?is)<title\b[^>]*>(.*?)</title`)
)

// pageText is what is said of a web page: its title at most.
func pageText(body []byte) string {
	if m := pageTitle.FindSubmatch(body); m != nil {
		if title := llm.Shorten(html.UnescapeString(string(m[1])), 80); title != "" {
			return "a web page (" + title + ")"
		}
	}
	return "a web page"
}

const hintNoServer = "this is not a model server: check base_url"

// errorType is the type of an error that OpenRouter tells in its metadata; of a
// prompt that was flagged it may tell the reasons only:
// https://openrouter.ai/docs/api/reference/errors-and-debugging.
func errorType(meta json.RawMessage) string {
	var m struct {
		Type    string            `json:"error_type"`
		Reasons []json.RawMessage `json:"reasons"`
		Limit   string            `json:"limit_source"`
	}
	switch {
	case len(meta) == 0 || json.Unmarshal(meta, &m) != nil:
		return ""
	case m.Type == "" && len(m.Reasons) > 0:
		return "content_policy_violation"
	case m.Type == "" && m.Limit == "openrouter_in_flight_budget":
		return "in_flight_budget_exhausted"
	}
	return m.Type
}

// present reports whether some JSON says anything.
func present(raw string) bool {
	switch raw {
	case "", "null", `""`, "{}", "false":
		return false
	}
	return true
}

// complain judges what says why there is no reply.
func (w *Wire) complain(t *target, h *head, body []byte) *llm.Failure {
	c := parseComplaint([]byte(w.secrets.Hide(string(body))))
	status := h.status
	switch {
	case status < 300: // in place of a reply
		status = cmp.Or(c.status, llm.StatusOf(c.typ), http.StatusInternalServerError)
	case status >= 500 && c.status != 0:
		status = c.status // a gateway that passes on what another server said
	}
	f := &llm.Failure{
		Endpoint: t.base, Status: status, Code: c.code, Msg: c.msg, After: h.after, Quota: h.quota,
		Sent: status >= 500 && status != http.StatusServiceUnavailable && status != 529,
	}
	code := c.code
	if code == "" {
		code = c.param // vLLM names a prompt that is too long by its parameter only
	}
	f.Kind, f.Hint = llm.Judge(status, code, c.typ)
	switch {
	case lost(f) && w.worked[h.op].Load() && c.code == "" && c.status == 0 && c.typ == "":
		f.Kind, f.Hint = llm.Transport, "" // not the server's words: somebody before it has no way to it for now
	case status == http.StatusBadRequest && c.text && !w.reached() && strings.HasPrefix(t.base, "http:"):
		f.Kind, f.Hint = llm.Fatal, "this is not a model server, or one that wants https:// in base_url"
	case c.page && (lost(f) || status == http.StatusNotImplemented):
		f.Hint = hintNoServer
	case (c.code == "unsupported_parameter" || c.code == "unsupported_value") && c.param != "" && f.Hint == "":
		f.Hint = "leave out " + c.param
	}
	switch {
	case status < 400 && h.location != "":
		f.Msg = "redirected to " + llm.Shorten(w.secrets.Hide(stripQuery(h.location)), 200)
	case f.Msg == "":
		f.Msg = cmp.Or(http.StatusText(status), "no reply")
	}
	if c.param == "max_tokens" && c.code == "unsupported_parameter" {
		f.Code = codeMaxTokens
	}
	return f
}

// codeMaxTokens is the code of a failure whose cure is to say
// max_completion_tokens.
const codeMaxTokens = "unsupported_parameter: max_tokens"

// lost says that there is no such place at the server, rather than no such
// model.
func lost(f *llm.Failure) bool {
	return f.Kind == llm.Fatal && f.Code != "model_not_found" &&
		(f.Status == http.StatusNotFound || f.Status == http.StatusMethodNotAllowed)
}
