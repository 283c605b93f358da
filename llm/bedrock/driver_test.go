package bedrock

import (
	"net/http"
	"testing"
	"time"

	"matrix/llm"
	"matrix/matrixtest"
)

// complaint is an exception of
// https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html#API_runtime_Converse_Errors,
// with the status that stands there; event is its name in a stream, where it
// has one.
func complaint(status int, name, event string, kind llm.Kind, hint string) matrixtest.Complaint {
	body := `{"message":"it went wrong with {secret}"}`
	c := matrixtest.Complaint{
		Name: name, Status: status, Header: map[string]string{"X-Amzn-Errortype": name + ":http://internal.amazon.com/coral/"},
		Body: body, Kind: kind, Code: name, Hint: hint,
	}
	if event != "" {
		c.Event = exception(event, `{"message":"it went wrong"}`)
	}
	return c
}

func fake() matrixtest.Fake {
	slow := complaint(http.StatusTooManyRequests, "ThrottlingException", "throttlingException", llm.Capacity, "")
	slow.Header["Retry-After"], slow.After = "7", 7*time.Second
	proxied := matrixtest.Complaint{Name: "a gateway without a body", Status: http.StatusBadGateway, Kind: llm.Transport}
	return matrixtest.Fake{
		Start: start, Model: modelID, Secrets: []string{secret, keyID},
		Unsupported: []matrixtest.Feature{
			matrixtest.Embeddings, matrixtest.Completions, matrixtest.ImageURLs, matrixtest.JSON, matrixtest.Regex, matrixtest.Choices,
			matrixtest.Grammar, matrixtest.Penalties, matrixtest.Logprobs, matrixtest.Seed, matrixtest.N,
			matrixtest.ReasoningTokens, matrixtest.ModelName, matrixtest.Listing, matrixtest.Keys, matrixtest.ContextFate,
		},
		Complaints: []matrixtest.Complaint{
			slow,
			proxied,
			complaint(http.StatusServiceUnavailable, "ServiceUnavailableException", "serviceUnavailableException", llm.Capacity, ""),
			complaint(http.StatusTooManyRequests, "ModelNotReadyException", "", llm.Capacity, ""),
			complaint(http.StatusRequestTimeout, "ModelTimeoutException", "", llm.Timeout, ""),
			complaint(http.StatusFailedDependency, "ModelErrorException", "", llm.Fault, ""),
			complaint(http.StatusFailedDependency, "ModelStreamErrorException", "modelStreamErrorException", llm.Fault, ""),
			complaint(http.StatusInternalServerError, "InternalServerException", "internalServerException", llm.Fault, ""),
			complaint(http.StatusBadRequest, "ValidationException", "validationException", llm.Refused, ""),
			complaint(http.StatusForbidden, "AccessDeniedException", "", llm.Fatal, "access to the model"),
			complaint(http.StatusForbidden, "UnrecognizedClientException", "", llm.Fatal, "AWS credentials"),
			complaint(http.StatusForbidden, "ExpiredTokenException", "", llm.Fatal, "AWS credentials"),
			complaint(http.StatusBadRequest, "IncompleteSignature", "", llm.Fatal, "AWS credentials"),
			complaint(http.StatusNotFound, "ResourceNotFoundException", "", llm.Fatal, "check model"),
			complaint(http.StatusBadRequest, "ServiceQuotaExceededException", "", llm.Fatal, "raise the quota"),
		},
		Ends: map[string]string{
			"end_turn": "whole", "stop_sequence": "whole", "tool_use": "whole", "max_tokens": "cut", "model_context_window_exceeded": "cut",
			"guardrail_intervened": "refused", "content_filtered": "refused", "malformed_model_output": "broken", "malformed_tool_use": "broken",
		},
	}
}

func TestDriver(t *testing.T) { matrixtest.Driver(t, fake()) }
