package llm

import "slices"

// weights says how failures add up.
//
// gate: the sum over consecutive failures of a model, success setting it to 0, at
// which it counts as out is gateLimit. corroborated and uncorroborated: the sum
// over the failures of one request at which it is given up is giveUpScore; a
// failure is corroborated when another call of the model succeeded since the
// request's failure before (the first has none before it, and is not), or when it
// is empty and the model has ever succeeded. So a request that fails while others
// succeed is given up with the 6th fault or timeout, or the 30th broken exchange;
// one that nothing corroborates with the 60th fault (some minutes) or the 300th
// broken exchange (a quarter of an hour, or so); and a service that is full or
// not there is waited for without end.
var weights = [...]struct{ gate, corroborated, uncorroborated int }{
	Capacity:    {gate: 1},
	Unreachable: {gate: 4},
	Transport:   {gate: 4, corroborated: 21, uncorroborated: 2},
	Timeout:     {gate: 2, corroborated: 118, uncorroborated: 10},
	Fault:       {gate: 2, corroborated: 118, uncorroborated: 10},
}

const (
	gateLimit   = 20
	giveUpScore = 600
)

// StatusOf is the HTTP status that belongs to a type of error, for those that
// came without one: in a stream, or with success. 0 for one that is not known.
func StatusOf(typ string) int { return statuses[typ] }

// statuses are of OpenAI, Anthropic, vLLM and llama.cpp.
var statuses = map[string]int{
	"invalid_request_error": 400, "BadRequestError": 400, "UnprocessableEntityError": 422, "request_too_large": 413,
	"authentication_error": 401, "AuthenticationError": 401, "billing_error": 402, "permission_error": 403, "PermissionDeniedError": 403,
	"not_found_error": 404, "NotFoundError": 404, "conflict_error": 409, "rate_limit_error": 429, "RateLimitError": 429,
	"api_error": 500, "server_error": 500, "InternalServerError": 500, "not_supported_error": 501, "unavailable_error": 503,
	"ServiceUnavailableError": 503, "timeout_error": 504, "overloaded_error": 529, "engine_overloaded_error": 529,
}

// rule gives a kind to a status or a code.
type rule struct {
	codes    []string // matches the error's code or type; nil matches any
	from, to int      // statuses; 0, 0 matches any
	kind     Kind
	hint     string
}

const (
	hintForbidden = "a filter before the service may have blocked what is asked; else check api_key and what it may use"

	hintKey   = "check api_key"
	hintQuota = "add credit or raise the limit at the service, then run again"
	hintModel = "check model, and base_url"
	hintURL   = "check base_url"
	hintAWS   = "check the AWS credentials, what they may use, and that the account has access to the model"
)

// contentCodes are those of requests that were read, and refused for what they
// say.
var contentCodes = []string{"content_filter", "content_policy_violation", "moderation_blocked"}

// rules is the table of kinds: the first rule that matches decides. Codes go
// before statuses, since services disagree about statuses.
var rules = []rule{
	{codes: []string{"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "enforced_spend_limit_reached"}, kind: Fatal, hint: hintQuota},
	{codes: []string{"invalid_api_key", "account_deactivated", "authentication_error", "permission_error", "API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED"}, kind: Fatal, hint: hintKey},
	{codes: []string{"FAILED_PRECONDITION"}, kind: Fatal, hint: "enable billing for the project, or check whether the service is offered where you are"},
	{codes: []string{"PERMISSION_DENIED", "AccessDenied", "unsupported_country_region_territory"}, kind: Fatal, hint: "check api_key, what it may use, and from where"},
	{codes: []string{"model_not_found"}, kind: Fatal, hint: hintModel},
	{codes: []string{"context_length_exceeded", "string_above_max_length", "exceed_context_size_error", "input_tokens", "request_too_large"}, kind: Context},
	{codes: contentCodes, kind: Refused},
	{codes: []string{"rate_limit_exceeded", "rate_limit_error", "overloaded_error", "in_flight_budget_exhausted"}, kind: Capacity},

	// AWS's exceptions, which have no status in a stream:
	// https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
	// https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
	{codes: []string{"ThrottlingException", "ServiceUnavailableException", "ServiceUnavailable", "ModelNotReadyException", "MPAgreementBeingCreated"}, kind: Capacity},
	{codes: []string{"AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "IncompleteSignature",
		"ExpiredTokenException", "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired"}, kind: Fatal, hint: hintAWS},
	{codes: []string{"ServiceQuotaExceededException"}, kind: Fatal, hint: "raise the quota in AWS's Service Quotas, then run again"},
	{codes: []string{"RequestExpired", "RequestTimeTooSkewed"}, kind: Fault, hint: "check this machine's clock"},
	{codes: []string{"ModelTimeoutException", "ModelInvocationTimeExceeded"}, kind: Timeout},
	{codes: []string{"ModelErrorException", "ModelStreamErrorException", "InternalServerException", "InternalFailure", "InternalStreamFailure"}, kind: Fault},
	{codes: []string{"StreamBroken"}, kind: Transport},
	{codes: []string{"ValidationException", "ValidationError"}, kind: Refused},

	{from: 300, to: 399, kind: Fatal, hint: "redirects are not followed, so that a key never goes elsewhere: give the final address as base_url"},
	{from: 401, to: 401, kind: Fatal, hint: hintKey},
	{from: 402, to: 402, kind: Fatal, hint: hintQuota},
	{from: 403, to: 403, kind: Refused, hint: hintForbidden},
	{from: 404, to: 404, kind: Fatal, hint: hintModel},
	{from: 405, to: 405, kind: Fatal, hint: hintURL},
	{from: 407, to: 407, kind: Fatal, hint: "check the proxy in HTTP_PROXY or HTTPS_PROXY"},
	{from: 408, to: 408, kind: Timeout},
	{from: 409, to: 409, kind: Capacity}, // an earlier try with the same idempotency key is still at work
	{from: 425, to: 425, kind: Capacity},
	{from: 429, to: 429, kind: Capacity},
	{from: 499, to: 499, kind: Transport}, // cancelled on the way
	{from: 400, to: 499, kind: Refused},

	{from: 501, to: 501, kind: Fatal, hint: hintURL},
	{from: 502, to: 502, kind: Transport},
	{from: 503, to: 503, kind: Capacity},
	{from: 504, to: 504, kind: Timeout},
	{from: 505, to: 505, kind: Fatal, hint: hintURL},
	{from: 529, to: 529, kind: Capacity},
	{from: 521, to: 524, kind: Transport}, // a proxy that cannot reach the server
	{from: 500, to: 599, kind: Fault},
}

// matches reports whether a rule is for a response.
func (r *rule) matches(status int, code, typ string) bool {
	if r.codes != nil && !slices.Contains(r.codes, code) && !slices.Contains(r.codes, typ) {
		return false
	}
	return r.to == 0 || status >= r.from && status <= r.to
}

// Judge looks a response up in the table. What is not there is a fault.
func Judge(status int, code, typ string) (Kind, string) {
	for i := range rules {
		if r := &rules[i]; r.matches(status, code, typ) {
			return r.kind, r.hint
		}
	}
	return Fault, ""
}
