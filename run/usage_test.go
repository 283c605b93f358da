package run_test

import (
	"encoding/json"
	"testing"

	"matrix"
	"matrix/llm"
	"matrix/run"
)

// What is counted is declared once and embedded; files have it flat, in this order.
func TestUsageOnDisk(t *testing.T) {
	for _, c := range []struct {
		into        any
		full, empty string
	}{
		{&run.Usage{}, `{"calls":1,"reused":10,"retries":2,"prompt_tokens":3,"completion_tokens":4,"cached_tokens":5,"cache_write_tokens":6,"reasoning_tokens":7,"estimated":8,"usd":9.5}`,
			`{"calls":0,"retries":0,"prompt_tokens":0,"completion_tokens":0}`},
		{&llm.Usage{}, `{"prompt_tokens":3,"completion_tokens":4,"cached_tokens":5,"cache_write_tokens":6,"reasoning_tokens":7,"images":8,"estimated":true,"usd":9.5}`,
			`{"prompt_tokens":0,"completion_tokens":0}`},
		{&matrix.Call{}, `{"kind":"model","name":"m","model":"o/m","revision":"r","endpoint":"http://h","params":{"n":1},"prompt":"p","request":"q","seed":1,"finish":"stop","error":"e","reused":{"run":"runs/a","task":"7"},"retries":2,` +
			`"prompt_tokens":3,"completion_tokens":4,"cached_tokens":5,"cache_write_tokens":6,"reasoning_tokens":7,"estimated":true,"usd":9.5,"wait_ms":1.5,"retry_ms":2.5,"first_token_ms":3.5,"took_ms":4.5}`,
			`{"kind":"","name":"","prompt_tokens":0,"completion_tokens":0}`},
	} {
		for _, want := range []string{c.empty, c.full} {
			if err := json.Unmarshal([]byte(want), c.into); err != nil {
				t.Fatal(err)
			}
			if got, err := json.Marshal(c.into); err != nil || string(got) != want {
				t.Errorf("%T: got  %s, %v\nwant %s", c.into, got, err, want)
			}
		}
	}
}
