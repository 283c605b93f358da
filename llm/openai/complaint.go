package openai

import (
	"cmp"
	"net/http"
	"strings"

	"matrix/llm"
	"matrix/llm/openai/api"
)

const hintNoServer = "this is not a model server: check base_url"

// complain judges what says why there is no reply.
func (w *Driver) complain(t *target, h *head, body []byte) *llm.Failure {
	c := api.ReadError([]byte(w.secrets.Hide(string(body))))
	status := h.status
	switch {
	case status < 300: // in place of a reply
		status = cmp.Or(c.Status, llm.StatusOf(c.Type), http.StatusInternalServerError)
	case status >= 500 && c.Status != 0:
		status = c.Status // a gateway that passes on what another server said
	}
	f := &llm.Failure{
		Endpoint: t.base, Status: status, Code: c.Code, Msg: c.Msg, After: h.after, Quota: h.quota,
		Sent: status >= 500 && status != http.StatusServiceUnavailable && status != 529,
	}
	code := cmp.Or(c.Code, c.Param) // vLLM names a prompt that is too long by its parameter only
	f.Kind, f.Hint = llm.Judge(status, code, c.Type)
	switch {
	case lost(f) && w.worked[h.op].Load() && c.Code == "" && c.Status == 0 && c.Type == "":
		f.Kind, f.Hint = llm.Transport, "" // not the server's words: somebody before it has no way to it for now
	case status == http.StatusBadRequest && c.Text && !w.reached() && strings.HasPrefix(t.base, "http:"):
		f.Kind, f.Hint = llm.Fatal, "this is not a model server, or one that wants https:// in base_url"
	case c.Page && (lost(f) || status == http.StatusNotImplemented):
		f.Hint = hintNoServer
	case (c.Code == "unsupported_parameter" || c.Code == "unsupported_value") && c.Param != "" && f.Hint == "":
		f.Hint = "leave out " + c.Param
	}
	switch {
	case status < 400 && h.location != "":
		f.Msg = "redirected to " + llm.Shorten(w.secrets.Hide(stripQuery(h.location)), 200)
	case f.Msg == "":
		f.Msg = cmp.Or(http.StatusText(status), "no reply")
	}
	if c.Param == "max_tokens" && c.Code == "unsupported_parameter" {
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
