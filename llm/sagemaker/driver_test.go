package sagemaker

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"matrix/llm"
	"matrix/matrixtest"
)

// complaint is an error of the service, of
// https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html#API_runtime_InvokeEndpoint_Errors
func complaint(status int, name string, kind llm.Kind, hint string) matrixtest.Complaint {
	return matrixtest.Complaint{
		Name: name, Status: status, Header: map[string]string{"X-Amzn-Errortype": name},
		Body: `{"Message":"it went wrong with {secret}"}`, Kind: kind, Code: name, Hint: hint,
	}
}

// contained is what the container answers, as the service passes it on.
func contained(status int, body, code string, kind llm.Kind) matrixtest.Complaint {
	return matrixtest.Complaint{
		Name: fmt.Sprintf("the container's %d %s", status, code), Status: status, Kind: kind, Code: code,
		Header: map[string]string{"X-Amzn-Errortype": "ModelError"},
		Body:   fmt.Sprintf(`{"Message":"Received client error","OriginalStatusCode":%d,"OriginalMessage":%q,"LogStreamArn":"arn:aws:logs:x"}`, status, body),
	}
}

func fake() matrixtest.Fake {
	slow := complaint(http.StatusTooManyRequests, "ThrottlingException", llm.Capacity, "")
	slow.Header["Retry-After"], slow.After = "7", 7*time.Second
	broken := complaint(http.StatusInternalServerError, "InternalFailure", llm.Fault, "")
	broken.Event = exception("InternalStreamFailure", `{"Message":"it went wrong"}`)
	return matrixtest.Fake{
		Start: start, Model: "llama", Secrets: []string{secret, keyID},
		Unsupported: []matrixtest.Feature{matrixtest.Listing, matrixtest.Regex, matrixtest.Choices, matrixtest.Grammar, matrixtest.CacheWrites, matrixtest.Opaque, matrixtest.ToolErrors},
		Complaints: []matrixtest.Complaint{
			slow, broken,
			complaint(http.StatusServiceUnavailable, "ServiceUnavailable", llm.Capacity, ""),
			complaint(http.StatusTooManyRequests, "ModelNotReadyException", llm.Capacity, ""),
			complaint(530, "InternalDependencyException", llm.Fault, ""),
			complaint(http.StatusBadRequest, "ValidationError", llm.Refused, ""),
			complaint(http.StatusForbidden, "AccessDeniedException", llm.Fatal, "AWS credentials"),
			complaint(http.StatusNotFound, "ResourceNotFoundException", llm.Fatal, "check model"),
			contained(http.StatusBadRequest, `{"error":{"message":"too long","type":"BadRequestError","code":"context_length_exceeded"}}`, "context_length_exceeded", llm.Context),
			contained(http.StatusBadRequest, `{"error":{"message":"no such parameter","type":"BadRequestError","param":null,"code":400}}`, "", llm.Refused),
			contained(http.StatusServiceUnavailable, `{"code":503,"error":"queue is full"}`, "", llm.Capacity),
			contained(http.StatusInternalServerError, `out of memory`, "", llm.Fault),
		},
	}
}

func TestDriver(t *testing.T) { matrixtest.Driver(t, fake()) }
