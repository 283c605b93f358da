package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"html"
	"regexp"
	"strconv"
	"strings"

	"matrix/internal/jsontext"
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

// Error is what an error body says.
type Error struct {
	Code   string // the code, where it is a word
	Status int    // the code, where it is an HTTP status
	Type   string
	Param  string // the parameter at fault
	Msg    string
	Text   bool // the body is not JSON
	Page   bool // but a web page
}

// ReadError reads an error body. What it cannot read is the message.
func ReadError(body []byte) Error {
	var w wireError
	body = bytes.TrimPrefix(body, []byte(BOM))
	if json.Unmarshal(body, &w) != nil {
		if IsPage(body) {
			return Error{Msg: pageText(body), Text: true, Page: true}
		}
		return Error{Msg: llm.Shorten(string(body), 300), Text: !json.Valid(body)}
	}
	if len(w.Error) > 0 && w.Error[0] == '{' {
		var in wireError
		if json.Unmarshal(w.Error, &in) == nil {
			w = in
		}
	}
	c := Error{Type: w.Type, Msg: w.Message}
	_ = json.Unmarshal(w.Param, &c.Param) // a text, null, or nothing we know
	c.Type = cmp.Or(c.Type, errorType(w.Meta))
	var word string
	if json.Unmarshal(w.Code, &word) == nil && word != "" {
		c.Code = word
	}
	text := strings.Trim(string(w.Code), `"`)
	if n, err := strconv.Atoi(text); err == nil {
		c.Code = ""
		if n >= 400 && n <= 599 {
			c.Status = n
		}
	}
	for _, raw := range []json.RawMessage{w.Error, w.Detail} {
		if c.Msg != "" || !Present(string(raw)) {
			continue
		}
		if json.Unmarshal(raw, &c.Msg) != nil {
			c.Msg = string(raw)
		}
	}
	c.Msg = cmp.Or(c.Msg, string(body))
	c.Msg = llm.Shorten(c.Msg, 1000)
	return c
}

var (
	page      = regexp.MustCompile(`(?i)^\s*(<!doctype html|<html)\b`)
	pageTitle = regexp.MustCompile(`(?is)<title\b[^>]*>(.*?)</title`)
)

// IsPage reports whether a body is a web page.
func IsPage(body []byte) bool { return page.Match(body) }

// pageText is what is said of a web page: its title at most.
func pageText(body []byte) string {
	if m := pageTitle.FindSubmatch(body); m != nil {
		if title := llm.Shorten(html.UnescapeString(string(m[1])), 80); title != "" {
			return "a web page (" + title + ")"
		}
	}
	return "a web page"
}

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

// Present reports whether some JSON says anything.
func Present(raw string) bool {
	switch raw {
	case "", "null", `""`, "{}", "false":
		return false
	}
	return true
}

// Append appends the body of an error. One without a code has its status for it.
func (c *Error) Append(b []byte) []byte {
	b = jsontext.AppendString(append(b, `{"error":{"message":`...), c.Msg)
	b = jsontext.AppendString(append(b, `,"type":`...), c.Type)
	b = jsontext.AppendString(append(b, `,"param":`...), c.Param)
	if b = append(b, `,"code":`...); c.Code == "" {
		b = strconv.AppendInt(b, int64(c.Status), 10)
	} else {
		b = jsontext.AppendString(b, c.Code)
	}
	return append(b, '}', '}')
}
