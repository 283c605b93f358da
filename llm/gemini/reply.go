package gemini

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"matrix/llm"
)

// answer is a response, or a piece of one.
type answer struct {
	Candidates []*struct {
		Index    int       `json:"index"`
		Content  *content  `json:"content"`
		Finish   string    `json:"finishReason"`
		Message  string    `json:"finishMessage"` // on the finish reason
		Logprobs *logprobs `json:"logprobsResult"`
	} `json:"candidates"`
	Feedback *feedback `json:"promptFeedback"`
	Usage    *struct {
		Prompt    int `json:"promptTokenCount"`
		ToolUse   int `json:"toolUsePromptTokenCount"`
		Cached    int `json:"cachedContentTokenCount"`
		Candidate int `json:"candidatesTokenCount"`
		Thoughts  int `json:"thoughtsTokenCount"`
	} `json:"usageMetadata"`
	Model string          `json:"modelVersion"`
	ID    string          `json:"responseId"`
	Error json.RawMessage `json:"error"`
}

// bytes is how many l takes.
func (l *logprobs) bytes() int {
	n := len(l.Sum)
	for _, list := range [][]json.RawMessage{l.Chosen, l.Top} {
		for _, x := range list {
			n += len(x)
		}
	}
	return n
}

// feedback is why a prompt was blocked.
type feedback struct {
	Reason  string `json:"blockReason"`
	Message string `json:"blockReasonMessage"`
}

// logprobs are those of a candidate, as the service has them.
type logprobs struct {
	Chosen []json.RawMessage `json:"chosenCandidates,omitempty"`
	Top    []json.RawMessage `json:"topCandidates,omitempty"`
	Sum    json.RawMessage   `json:"logProbabilitySum,omitempty"`
}

// reading is a reply that is being put together: of a stream, or of one
// response.
type reading struct {
	driver *Driver
	res    *http.Response
	stream *llm.Stream // nil where the reply is not streamed

	choices  []llm.Choice // where it is not
	logprobs map[int]*logprobs
	calls    map[int]int // tool calls of each choice
	opaque   map[int]*llm.Opaque
	finish   map[int]string
	why      string // what the service says of the finish reason
	blocked  *feedback
	model    string
	usage    llm.Usage
}

// take adds a response, or a piece of one.
func (in *reading) take(a *answer) {
	if in.finish == nil {
		in.finish, in.calls, in.logprobs = map[int]string{}, map[int]int{}, map[int]*logprobs{}
		in.opaque = map[int]*llm.Opaque{}
	}
	if a.Model != "" {
		in.model = a.Model
	}
	if u := a.Usage; u != nil {
		in.usage = llm.Usage{
			Tokens: llm.Tokens{PromptTokens: u.Prompt + u.ToolUse,
				CompletionTokens: u.Candidate + u.Thoughts,
				CachedTokens:     u.Cached,
				ReasoningTokens:  u.Thoughts},
		}
	}
	if f := a.Feedback; f != nil && f.Reason != "" {
		in.blocked = f
	}
	for _, c := range a.Candidates {
		if c == nil {
			continue
		}
		i := max(0, min(c.Index, 1<<10))
		if in.stream == nil {
			for len(in.choices) <= i {
				in.choices = append(in.choices, llm.Choice{})
			}
		}
		if c.Content != nil {
			for k := range c.Content.Parts {
				in.part(i, &c.Content.Parts[k], a.ID)
			}
		}
		if c.Logprobs != nil {
			in.addLogprobs(i, c.Logprobs)
		}
		if c.Finish != "" {
			in.finish[i] = c.Finish
			in.why = c.Message
			in.end(i, finish(c.Finish))
		}
	}
}

func (p *part) text() string {
	if p.Text == nil {
		return ""
	}
	return *p.Text
}

// part adds a part to choice i.
func (in *reading) part(i int, p *part, reply string) {
	in.note(i, p)
	switch {
	case p.Call != nil:
		var args bytes.Buffer
		if len(p.Call.Args) == 0 || string(p.Call.Args) == "null" || json.Compact(&args, p.Call.Args) != nil {
			args.WriteString("{}")
		}
		nth := in.calls[i]
		in.calls[i]++
		id := p.Call.ID
		if id == "" {
			id = fmt.Sprintf("call_%s_%d_%d", reply, i, nth)
		}
		if in.stream != nil {
			in.stream.ToolCall(i, nth, id, p.Call.Name, args.String())
			return
		}
		in.choices[i].ToolCalls = append(in.choices[i].ToolCalls, llm.ToolCall{ID: id, Name: p.Call.Name, Arguments: args.String()})
	case p.Thought && in.stream != nil:
		in.stream.Reasoning(i, p.text())
	case p.Thought:
		in.choices[i].Reasoning += p.text()
	case in.stream != nil:
		in.stream.Text(i, p.text())
	default:
		in.choices[i].Text += p.text()
	}
}

func (in *reading) addLogprobs(i int, l *logprobs) {
	if in.stream != nil && !in.stream.Keep(l.bytes()) {
		return
	}
	if old := in.logprobs[i]; old != nil {
		old.Chosen = append(old.Chosen, l.Chosen...)
		old.Top = append(old.Top, l.Top...)
		return
	}
	in.logprobs[i] = l
}

func (in *reading) end(i int, reason string) {
	if in.stream != nil {
		in.stream.Finish(i, reason)
		return
	}
	in.choices[i].Finish = reason
}

// finish is a finish reason in words that agents know. Most they know already.
func finish(r string) string {
	switch r {
	case "SPII":
		return "sensitive"
	case "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION":
		return strings.TrimPrefix(r, "IMAGE_")
	}
	return r
}

// filtered says that a reply was ended by a filter.
func filtered(r string) bool {
	switch finish(r) {
	case "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "sensitive":
		return true
	}
	return false
}

// streamed returns a reply whose stream has ended.
func (in *reading) streamed() (*llm.Reply, *llm.Failure) {
	rep := &llm.Reply{Choices: in.stream.Choices(), First: in.stream.First()}
	if in.stream.First() == 0 && len(in.finish) == 0 {
		rep.Choices = nil
	}
	cut := func() bool { // a choice does not say why it ended
		for i := range rep.Choices {
			if in.finish[i] == "" {
				return true
			}
		}
		return false
	}
	if !in.stream.Ended() && in.blocked == nil && cut() {
		return nil, &llm.Failure{Kind: llm.Transport, Endpoint: in.driver.conn.Base, Status: in.res.StatusCode, Sent: true, Msg: "the stream ended before the reply did"}
	}
	if n := in.stream.Tokens(); in.stream.Ended() && n > in.usage.CompletionTokens {
		in.usage.CompletionTokens, in.usage.Estimated = n, true
	}
	return in.judge(rep)
}

// judge completes a reply, or says why it is none.
func (in *reading) judge(rep *llm.Reply) (*llm.Reply, *llm.Failure) {
	rep.Model, rep.Usage, rep.Quota = in.model, in.usage, llm.Quotas(in.res.Header, time.Now())
	f := &llm.Failure{Kind: llm.Refused, Endpoint: in.driver.conn.Base, Status: in.res.StatusCode, Sent: true, Usage: &in.usage}
	if b := in.blocked; b != nil {
		f.Code, f.Msg = b.Reason, strings.TrimSpace("the prompt was blocked: "+b.Reason+" "+b.Message)
		f.Msg = llm.Shorten(in.driver.conn.Hide(f.Msg), 1000)
		return nil, f
	}
	if len(rep.Choices) == 0 {
		return nil, in.driver.conn.EmptyReply(in.res, "the reply holds no candidates")
	}
	blocked := 0
	for i := range rep.Choices {
		c, r := &rep.Choices[i], in.finish[i]
		f.Code = r
		switch r {
		case "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS":
			f.Kind = llm.Fault
			f.Msg = llm.Shorten(in.driver.conn.Hide(fmt.Sprintf("the service broke off the reply (finishReason %s) %s", r, in.why)), 1000)
			return nil, f
		}
		if filtered(r) && c.Text == "" {
			blocked++
		}
		if o := in.opaque[i]; o != nil && (in.stream == nil || !in.stream.Ended()) {
			c.Opaque = o.JSON()
		}
		if l := in.logprobs[i]; l != nil {
			c.Logprobs, _ = json.Marshal(l)
		}
	}
	if blocked == len(rep.Choices) {
		f.Msg = llm.Shorten(in.driver.conn.Hide("the reply was blocked: "+f.Code+" "+in.why), 1000)
		return nil, f
	}
	return rep, nil
}

// complain judges an error that the service tells.
func (w *Driver) complain(res *http.Response, body []byte) *llm.Failure {
	var c struct {
		Error struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
			Status  string `json:"status"`
			Details []struct {
				Type   string `json:"@type"`
				Reason string `json:"reason"`     // of an ErrorInfo
				Delay  string `json:"retryDelay"` // of a RetryInfo
			} `json:"details"`
		} `json:"error"`
	}
	body = bytes.TrimSpace(body)
	text := bytes.TrimSuffix(bytes.TrimPrefix(body, []byte("[")), []byte("]")) // the one element of a list, in a stream
	_ = json.Unmarshal(text, &c)                                               // what it is not says no more than its status
	e := &c.Error
	f := &llm.Failure{Status: res.StatusCode, Msg: e.Message}
	if f.Status < 300 && e.Code != 0 {
		f.Status = e.Code
	}
	reason := ""
	for _, d := range e.Details {
		switch d.Type {
		case "type.googleapis.com/google.rpc.ErrorInfo":
			reason = d.Reason
		case "type.googleapis.com/google.rpc.RetryInfo":
			f.After, _ = time.ParseDuration(d.Delay)
		}
	}
	f.Kind, f.Hint = llm.Judge(f.Status, reason, e.Status)
	f.Code = cmp.Or(reason, e.Status)
	return w.conn.Complaint(f, res, body)
}
