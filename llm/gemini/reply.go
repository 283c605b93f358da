package gemini

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"google.golang.org/genai"

	"matrix/llm"
)

// reading is a reply that is being put together: of a stream, or of one
// response.
type reading struct {
	wire   *Wire
	stream *llm.Stream // nil where the reply is not streamed

	choices  []llm.Choice // where it is not
	logprobs map[int]*genai.LogprobsResult
	calls    map[int][]string // ids of the tool calls of each choice
	opaque   map[int]*llm.Opaque
	finish   map[int]genai.FinishReason
	why      string // what the service says of the finish reason
	blocked  *genai.GenerateContentResponsePromptFeedback
	model    string
	usage    llm.Usage
}

// take adds a response, or a piece of one.
func (in *reading) take(res *genai.GenerateContentResponse) {
	if in.finish == nil {
		in.finish, in.calls, in.logprobs = map[int]genai.FinishReason{}, map[int][]string{}, map[int]*genai.LogprobsResult{}
		in.opaque = map[int]*llm.Opaque{}
	}
	if res.ModelVersion != "" {
		in.model = res.ModelVersion
	}
	if u := res.UsageMetadata; u != nil {
		in.usage = llm.Usage{
			PromptTokens:     int(u.PromptTokenCount + u.ToolUsePromptTokenCount),
			CompletionTokens: int(u.CandidatesTokenCount + u.ThoughtsTokenCount),
			CachedTokens:     int(u.CachedContentTokenCount),
			ReasoningTokens:  int(u.ThoughtsTokenCount),
		}
	}
	if f := res.PromptFeedback; f != nil && f.BlockReason != "" {
		in.blocked = f
	}
	for _, c := range res.Candidates {
		if c == nil {
			continue
		}
		i := max(0, min(int(c.Index), 1<<10))
		if in.stream == nil {
			for len(in.choices) <= i {
				in.choices = append(in.choices, llm.Choice{})
			}
		}
		if c.Content != nil {
			for _, p := range c.Content.Parts {
				in.part(i, p, res.ResponseID)
			}
		}
		if c.LogprobsResult != nil {
			in.addLogprobs(i, c.LogprobsResult)
		}
		if c.FinishReason != "" {
			in.finish[i] = c.FinishReason
			in.why = c.FinishMessage
			in.end(i, finish(c.FinishReason))
		}
	}
}

// part adds a part to choice i.
func (in *reading) part(i int, p *genai.Part, reply string) {
	if p == nil {
		return
	}
	in.note(i, p)
	switch {
	case p.FunctionCall != nil:
		args, err := json.Marshal(p.FunctionCall.Args)
		if err != nil || p.FunctionCall.Args == nil {
			args = []byte("{}")
		}
		nth := len(in.calls[i])
		id := p.FunctionCall.ID
		if id == "" {
			id = fmt.Sprintf("call_%s_%d_%d", reply, i, nth)
		}
		in.calls[i] = append(in.calls[i], id)
		if in.stream != nil {
			in.stream.ToolCall(i, nth, id, p.FunctionCall.Name, string(args))
			return
		}
		in.choices[i].ToolCalls = append(in.choices[i].ToolCalls, llm.ToolCall{ID: id, Name: p.FunctionCall.Name, Arguments: string(args)})
	case p.Thought && in.stream != nil:
		in.stream.Reasoning(i, p.Text)
	case p.Thought:
		in.choices[i].Reasoning += p.Text
	case in.stream != nil:
		in.stream.Text(i, p.Text)
	default:
		in.choices[i].Text += p.Text
	}
}

func (in *reading) addLogprobs(i int, l *genai.LogprobsResult) {
	if old := in.logprobs[i]; old != nil {
		old.ChosenCandidates = append(old.ChosenCandidates, l.ChosenCandidates...)
		old.TopCandidates = append(old.TopCandidates, l.TopCandidates...)
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
func finish(r genai.FinishReason) string {
	switch r {
	case genai.FinishReasonSPII:
		return "sensitive"
	case genai.FinishReasonImageSafety:
		return "SAFETY"
	case genai.FinishReasonImageProhibitedContent:
		return "PROHIBITED_CONTENT"
	case genai.FinishReasonImageRecitation:
		return "RECITATION"
	}
	return string(r)
}

// filtered says that a reply was ended by a filter.
func filtered(r genai.FinishReason) bool {
	switch finish(r) {
	case "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "sensitive":
		return true
	}
	return false
}

// whole returns a reply that was not streamed.
func (in *reading) whole(x *exchange) (*llm.Reply, *llm.Failure) {
	return in.judge(x, &llm.Reply{Choices: in.choices})
}

// streamed returns a reply whose stream has ended.
func (in *reading) streamed(x *exchange) (*llm.Reply, *llm.Failure) {
	rep := &llm.Reply{Choices: in.stream.Choices(), First: in.stream.First()}
	if in.stream.First() == 0 && len(in.finish) == 0 {
		rep.Choices = nil
	}
	if len(rep.Choices) > 0 && len(in.finish) == 0 && !in.stream.Ended() && in.blocked == nil {
		return nil, &llm.Failure{Kind: llm.Transport, Endpoint: in.wire.base, Status: x.status, Sent: true, Msg: "the stream ended before the reply did"}
	}
	if n := in.stream.Tokens(); in.stream.Ended() && n > in.usage.CompletionTokens {
		in.usage.CompletionTokens, in.usage.Estimated = n, true
	}
	return in.judge(x, rep)
}

// judge completes a reply, or says why it is none.
func (in *reading) judge(x *exchange, rep *llm.Reply) (*llm.Reply, *llm.Failure) {
	rep.Model, rep.Usage = in.model, in.usage
	f := &llm.Failure{Kind: llm.Refused, Endpoint: in.wire.base, Status: x.status, Sent: true, Usage: &in.usage}
	if b := in.blocked; b != nil {
		f.Code, f.Msg = string(b.BlockReason), strings.TrimSpace("the prompt was blocked: "+string(b.BlockReason)+" "+b.BlockReasonMessage)
		f.Msg = in.wire.secrets.Hide(llm.Shorten(f.Msg, 1000))
		return nil, f
	}
	if len(rep.Choices) == 0 {
		return nil, in.wire.hollow(x, "the reply holds no candidates")
	}
	blocked := 0
	for i := range rep.Choices {
		c, r := &rep.Choices[i], in.finish[i]
		f.Code = string(r)
		switch r {
		case genai.FinishReasonMalformedFunctionCall, genai.FinishReasonUnexpectedToolCall, genai.FinishReasonTooManyToolCalls:
			f.Kind = llm.Fault
			f.Msg = in.wire.secrets.Hide(llm.Shorten(fmt.Sprintf("the service broke off the reply (finishReason %s) %s", r, in.why), 1000))
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
		f.Msg = in.wire.secrets.Hide(llm.Shorten("the reply was blocked: "+f.Code+" "+in.why, 1000))
		return nil, f
	}
	return rep, nil
}

// hollow is a response of success that brought no reply.
func (w *Wire) hollow(x *exchange, msg string) *llm.Failure {
	f := &llm.Failure{Kind: llm.Fault, Endpoint: w.base, Status: x.status, Hollow: true, Sent: true, Msg: w.secrets.Hide(llm.Shorten(msg, 300))}
	if strings.HasPrefix(x.header.Get("Content-Type"), "text/html") {
		f.Kind, f.Hollow = llm.Transport, false // somebody on the way to the service answered
	}
	return f
}

// failed judges an error of the SDK; nil for none.
func (w *Wire) failed(ctx context.Context, x *exchange, err error) *llm.Failure {
	if x.status != 0 {
		w.answered.Store(true)
	}
	var api genai.APIError
	var login *auth.Error
	switch {
	case err == nil && x.err == nil, err == nil && x.status < 300:
		return nil // what there is of a stream is judged at its end
	case x.err != nil:
		return w.broken(ctx, x.err)
	case errors.As(err, &api):
		return w.complain(x, &api)
	case errors.As(err, &login):
		return w.locked(login)
	case x.status != 0:
		return w.hollow(x, "the reply cannot be read: "+err.Error())
	}
	return w.broken(ctx, err)
}

// locked judges an error of those who give tokens.
func (w *Wire) locked(e *auth.Error) *llm.Failure {
	f := &llm.Failure{Kind: llm.Fault, Endpoint: w.base, Msg: w.secrets.Hide(llm.Shorten("no access token: "+e.Error(), 300))}
	if e.Response != nil {
		f.Status = e.Response.StatusCode
		if f.Kind, _ = llm.Judge(f.Status, "", ""); f.Kind == llm.Refused {
			f.Kind = llm.Fatal // the credentials are at fault, not the request
		}
	}
	if f.Kind == llm.Fatal {
		f.Hint = "log in by gcloud auth application-default login, or check GOOGLE_APPLICATION_CREDENTIALS"
	}
	return f
}

// complain judges an error that the service tells.
func (w *Wire) complain(x *exchange, e *genai.APIError) *llm.Failure {
	status := x.status
	streamed := status < 300
	if streamed && e.Code != 0 {
		status = e.Code
	}
	f := &llm.Failure{Endpoint: w.base, Status: status, Msg: e.Message}
	reason, typ := "", e.Status
	for _, d := range e.Details {
		switch d["@type"] {
		case "type.googleapis.com/google.rpc.ErrorInfo":
			reason, _ = d["reason"].(string)
		case "type.googleapis.com/google.rpc.RetryInfo":
			s, _ := d["retryDelay"].(string)
			f.After, _ = time.ParseDuration(s)
		}
	}
	if strings.ContainsAny(typ, " 0123456789") {
		typ = "" // the SDK's, of an error that is not in the service's format
	}
	f.Kind, f.Hint = llm.Judge(status, reason, typ)
	f.Sent = streamed || f.Kind == llm.Fault || f.Kind == llm.Timeout
	f.Code = first(reason, typ)
	if f.Msg = w.secrets.Hide(llm.Shorten(f.Msg, 1000)); f.Msg == "" {
		f.Msg = http.StatusText(status)
	}
	now := time.Now()
	if d := llm.RetryAfter(x.header, now); d > 0 {
		f.After = d
	}
	f.Quota = llm.Quotas(x.header, now)
	return f
}
