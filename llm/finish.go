package llm

import (
	"fmt"
	"strings"
)

// End is what a finish_reason says of a reply.
type End uint8

// Ends of replies.
const (
	Unknown  End = iota // a word that is not known: the service has ended the reply, not the model
	Whole               // the model had said all
	Cut                 // at the limit of its length
	Filtered            // by the service's filter
	Outage              // by an outage within the service
)

// ends are the words of several services. What is not here is not a reply: a
// service that ends one by a word of its own speaks of itself.
var ends = map[string]struct {
	End
	kind Kind // of an Outage
}{
	"": {End: Whole}, "stop": {End: Whole}, "eos": {End: Whole}, "eos_token": {End: Whole}, "end_turn": {End: Whole}, "end_of_turn": {End: Whole},
	"stop_sequence": {End: Whole}, "stop_token": {End: Whole}, "complete": {End: Whole}, "completed": {End: Whole},
	"tool_calls": {End: Whole}, "tool_use": {End: Whole}, "function_call": {End: Whole},

	"length": {End: Cut}, "max_tokens": {End: Cut}, "max_output_tokens": {End: Cut}, "model_length": {End: Cut},

	"content_filter": {End: Filtered}, "safety": {End: Filtered}, "refusal": {End: Filtered}, "recitation": {End: Filtered},
	"blocklist": {End: Filtered}, "prohibited_content": {End: Filtered}, "sensitive": {End: Filtered},

	"insufficient_system_resource": {Outage, Capacity}, "engine_overloaded": {Outage, Capacity}, "overloaded": {Outage, Capacity},
	"network_error": {Outage, Transport}, "cancelled": {Outage, Transport}, "canceled": {Outage, Transport},
	"timeout": {Outage, Timeout},
	"error":   {Outage, Fault}, "abort": {Outage, Fault}, "aborted": {Outage, Fault}, "other": {Outage, Fault},
}

// endless is the Finish of a reply that a Stream has broken off, because it is too
// large.
const endless = "larger than a reply may be"

// EndOf reads a finish_reason, in any case.
func EndOf(finish string) End { return ends[strings.ToLower(finish)].End }

// broken is the failure of a reply that the service itself has ended, whatever
// there is of it; nil for none.
func (r *Reply) broken() *Failure {
	for i := range r.Choices {
		word := r.Choices[i].Finish
		if word == endless {
			f := TooLarge(r.Endpoint, 200, MaxReply)
			f.Params, f.Quota = r.Params, r.Quota
			return f
		}
		e := ends[strings.ToLower(word)]
		switch e.End {
		case Unknown:
			e.kind = Fault
		case Outage:
		default:
			continue
		}
		used := r.Usage
		return &Failure{Kind: e.kind, Endpoint: r.Endpoint, Status: 200, Sent: true, Usage: &used, Params: r.Params, Quota: r.Quota,
			Msg: fmt.Sprintf("the service broke off the reply (finish_reason %q)", Shorten(word, 80))}
	}
	return nil
}
