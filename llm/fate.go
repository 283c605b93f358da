package llm

import "slices"

// class is what a failed try means. It is decided by status and code fields,
// and by the types of Go's errors, never by the wording of a message.
type class uint8

const (
	capacity    class = iota // the service is there and full: 429, 503, 529
	unreachable              // no connection: refused, no route, no address
	transport                // a connection that brought nothing, or half: reset, cut off, 502
	timeout                  // no reply in time
	fault                    // an answer that is none: 500, not JSON, no choices, a reply that the server broke off
	refused                  // becomes Kind Refused
	tooLong                  // becomes Kind Context
	fatal                    // becomes Kind Fatal
)

// weights says how failures add up.
//
// gate: the sum over consecutive failures of a model, success setting it to 0,
// at which it counts as out is gateLimit. vouched and alone: the sum over the
// failures of one request at which it is given up is patienceLimit; a failure
// is vouched for when another call of the model succeeded since the request's
// failure before (the first has none before it, and is not), or when it is
// hollow and the model has ever succeeded. So a request that fails while others
// succeed is given up with the 6th fault or timeout, or the 30th broken
// exchange; one that nobody vouches for with the 60th fault (some minutes) or
// the 300th broken exchange (a quarter of an hour, or so); and a service that is
// full or not there is waited for without end.
var weights = [...]struct{ gate, vouched, alone int }{
	capacity:    {gate: 1},
	unreachable: {gate: 4},
	transport:   {gate: 4, vouched: 21, alone: 2},
	timeout:     {gate: 2, vouched: 118, alone: 10},
	fault:       {gate: 2, vouched: 118, alone: 10},
}

const (
	gateLimit     = 20
	patienceLimit = 600
)

// rule gives a class to a status or a code.
type rule struct {
	codes    []string // matches the error's code or type; nil matches any
	from, to int      // statuses; 0, 0 matches any
	class    class
	hint     string
}

const (
	hintKey   = "check api_key"
	hintQuota = "add credit or raise the limit at the service, then run again"
	hintModel = "check model, and base_url"
	hintURL   = "check base_url"
)

// rules is the table of fates: the first rule that matches decides. Codes go
// before statuses, since services disagree about statuses.
var rules = []rule{
	{codes: []string{"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}, class: fatal, hint: hintQuota},
	{codes: []string{"invalid_api_key", "account_deactivated", "authentication_error", "permission_error"}, class: fatal, hint: hintKey},
	{codes: []string{"model_not_found"}, class: fatal, hint: hintModel},
	{codes: []string{"context_length_exceeded", "string_above_max_length", "exceed_context_size_error"}, class: tooLong},
	{codes: []string{"content_filter", "content_policy_violation", "moderation_blocked"}, class: refused},
	{codes: []string{"rate_limit_exceeded", "rate_limit_error", "overloaded_error"}, class: capacity},

	{from: 300, to: 399, class: fatal, hint: "redirects are not followed, so that a key never goes elsewhere: give the final address as base_url"},
	{from: 401, to: 401, class: fatal, hint: hintKey},
	{from: 402, to: 402, class: fatal, hint: hintQuota},
	{from: 403, to: 403, class: fatal, hint: "check api_key and what it may use"},
	{from: 404, to: 404, class: fatal, hint: hintModel},
	{from: 405, to: 405, class: fatal, hint: hintURL},
	{from: 407, to: 407, class: fatal, hint: "check the proxy in HTTP_PROXY or HTTPS_PROXY"},
	{from: 408, to: 408, class: timeout},
	{from: 409, to: 409, class: capacity}, // an earlier try with the same idempotency key is still at work
	{from: 425, to: 425, class: capacity},
	{from: 429, to: 429, class: capacity},
	{from: 400, to: 499, class: refused},

	{from: 501, to: 501, class: fatal, hint: hintURL},
	{from: 502, to: 502, class: transport},
	{from: 503, to: 503, class: capacity},
	{from: 504, to: 504, class: timeout},
	{from: 505, to: 505, class: fatal, hint: hintURL},
	{from: 529, to: 529, class: capacity},
	{from: 521, to: 524, class: transport}, // a proxy that cannot reach the server
	{from: 500, to: 599, class: fault},
}

// judge looks a response up in the table. What is not there is a fault.
func judge(status int, code, typ string) (class, string) {
	for i := range rules {
		r := &rules[i]
		if r.codes != nil && !slices.Contains(r.codes, code) && !slices.Contains(r.codes, typ) {
			continue
		}
		if r.to != 0 && (status < r.from || status > r.to) {
			continue
		}
		return r.class, r.hint
	}
	return fault, ""
}
