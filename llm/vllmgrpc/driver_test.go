package vllmgrpc

import (
	"testing"

	"matrix/llm"
	"matrix/matrixtest"
)

// complaint is an RPC that ends with a status.
func complaint(code string, kind llm.Kind, hint string) matrixtest.Complaint {
	c := matrixtest.Complaint{Name: code, Code: code, Body: "it went wrong with {secret}: 100% é", Kind: kind, Hint: hint}
	c.Event = c.Body
	return c
}

func suite() matrixtest.Fake {
	return matrixtest.Fake{
		Start: start, Model: model, Secrets: []string{token},
		Unsupported: []matrixtest.Feature{
			matrixtest.HTTP, matrixtest.Embeddings, matrixtest.Tools, matrixtest.ToolChoice, matrixtest.Images, matrixtest.ImageURLs,
			matrixtest.Effort, matrixtest.ExtraBody, matrixtest.N, matrixtest.Reasoning, matrixtest.ReasoningTokens, matrixtest.Cached,
			matrixtest.ModelName, matrixtest.Keys, matrixtest.RetryAfter, matrixtest.ContextFate,
			matrixtest.CacheWrites, matrixtest.Opaque,
		},
		Complaints: []matrixtest.Complaint{
			complaint("RESOURCE_EXHAUSTED", llm.Capacity, ""),
			complaint("UNAVAILABLE", llm.Capacity, ""),
			complaint("DEADLINE_EXCEEDED", llm.Timeout, ""),
			complaint("INTERNAL", llm.Fault, ""),
			complaint("UNKNOWN", llm.Fault, ""),
			complaint("CANCELLED", llm.Transport, ""),
			complaint("INVALID_ARGUMENT", llm.Refused, ""),
			complaint("FAILED_PRECONDITION", llm.Refused, ""),
			complaint("NOT_FOUND", llm.Fatal, "check model"),
			complaint("UNAUTHENTICATED", llm.Fatal, "api_key"),
			complaint("PERMISSION_DENIED", llm.Fatal, "api_key"),
		},
		Ends: map[string]string{"ABORTED": "broken", "NOT_FINISHED": "broken"},
	}
}

func TestDriver(t *testing.T) { matrixtest.Driver(t, suite()) }
