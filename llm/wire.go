package llm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// appendRequest appends the body of a chat completion call. params is the
// object that Sampling.appendParams wrote.
func appendRequest(b []byte, model string, ms []Message, params []byte) []byte {
	b = append(b, '{')
	if model != "" {
		b = append(b, `"model":`...)
		b = append(appendString(b, model), ',')
	}
	b = append(b, `"messages":[`...)
	for i := range ms {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"role":`...)
		b = appendString(b, ms[i].Role)
		b = append(b, `,"content":`...)
		b = appendString(b, ms[i].Content)
		b = append(b, '}')
	}
	b = append(b, ']')
	if len(params) > 2 {
		b = append(b, ',')
		return append(b, params[1:]...)
	}
	return append(b, '}')
}

const digits = "0123456789abcdef"

// appendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD; HTML is left alone.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, s[start:i]...)
			b = append(b, "\uFFFD"...)
			i++
			start = i
			continue
		}
		i += n
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// wireReply is what a chat completion answers.
type wireReply struct {
	Model   string `json:"model"`
	Choices []struct {
		Message struct {
			Content content `json:"content"`
			Refusal string  `json:"refusal"`
		} `json:"message"`
		FinishReason string          `json:"finish_reason"`
		Error        json.RawMessage `json:"error"`
	} `json:"choices"`
	Usage Usage           `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// content is what a message says: a text, or a list of parts of which those
// that are texts count (others show how a model thought, or are pictures).
type content string

// UnmarshalJSON implements json.Unmarshaler.
func (c *content) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*string)(c))
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return err
	}
	var all strings.Builder
	for _, p := range parts {
		if p.Text != nil && (p.Type == "text" || p.Type == "output_text" || p.Type == "") {
			all.WriteString(*p.Text)
		}
	}
	*c = content(all.String())
	return nil
}

// present says whether raw says anything.
func present(raw json.RawMessage) bool {
	switch string(raw) {
	case "", "null", `""`, "{}", "false":
		return false
	}
	return true
}

// wireError is an error body, in the forms that servers give it: an object or
// a text under "error", the same fields at the top, or FastAPI's "detail".
type wireError struct {
	Error   json.RawMessage `json:"error"`
	Message string          `json:"message"`
	Code    json.RawMessage `json:"code"`
	Type    string          `json:"type"`
	Detail  json.RawMessage `json:"detail"`
}

// complaint is what an error body says.
type complaint struct {
	code   string // the code, where it is a word
	status int    // the code, where it is an HTTP status
	typ    string
	msg    string
}

// parseComplaint reads an error body. What it cannot read is the message.
func parseComplaint(body []byte) complaint {
	var w wireError
	if json.Unmarshal(body, &w) != nil {
		return complaint{msg: shorten(string(body), 300)}
	}
	if len(w.Error) > 0 && w.Error[0] == '{' {
		var in wireError
		if json.Unmarshal(w.Error, &in) == nil {
			w = in
		}
	}
	c := complaint{typ: w.Type, msg: w.Message}
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
		if c.msg != "" || !present(raw) {
			continue
		}
		if json.Unmarshal(raw, &c.msg) != nil {
			c.msg = string(raw)
		}
	}
	if c.msg == "" {
		c.msg = string(body)
	}
	c.msg = shorten(c.msg, 1000)
	return c
}

// shorten makes s one line of at most n bytes, in whole runes.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "\uFFFD")
	if len(s) <= n {
		return s
	}
	cut := n
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:cut], len(s))
}
