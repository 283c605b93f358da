package openai

import (
	"errors"
	"os"
	"testing"
	"time"

	"matrix/llm"
)

// A real server, where MATRIX_TEST_BASE_URL names one (and MATRIX_TEST_MODEL
// its model, MATRIX_TEST_API_KEY its key).
func TestLiveServer(t *testing.T) {
	url := os.Getenv("MATRIX_TEST_BASE_URL")
	if url == "" {
		t.Skip("MATRIX_TEST_BASE_URL is not set")
	}
	w := open(t, Options{BaseURL: url, Model: os.Getenv("MATRIX_TEST_MODEL"), APIKey: os.Getenv("MATRIX_TEST_API_KEY")})
	served, err := w.Probe(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("it serves %+v", served)
	seed, temp := int64(1), 0.2
	for _, stream := range []bool{false, true} {
		rep, err := w.Send(within(t, 5*time.Minute), &llm.Request{
			Messages: []llm.Message{{Role: "system", Content: "Answer in one sentence."}, {Role: "user", Content: "What is a coral?"}},
			Sampling: llm.Sampling{MaxTokens: 40, Seed: &seed, Temperature: &temp, Stream: &stream, Logprobs: 1},
			Key:      "live",
		})
		if err != nil {
			t.Fatal(err)
		}
		c := rep.Choices[0]
		t.Logf("%s %s at %s, %+v, first after %v, %s: %q", rep.Model, rep.Revision, rep.Endpoint, rep.Usage, rep.First, c.Finish, c.Text)
		if c.Text == "" || rep.Usage.CompletionTokens == 0 || !stream && rep.Usage.PromptTokens == 0 || stream != (rep.First > 0) {
			t.Errorf("got %+v, first after %v", rep.Usage, rep.First)
		}
	}
	rep, err := w.Send(within(t, time.Minute), &llm.Request{
		Messages: []llm.Message{{Role: "user", Content: "Count: 1, 2, 3, "}}, Sampling: llm.Sampling{MaxTokens: 60, Until: `[a-z]{3}`},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("until a word: %q, %+v", rep.Choices[0].Text, rep.Usage)
	rep, err = w.Send(within(t, time.Minute), &llm.Request{
		Messages: []llm.Message{{Role: "user", Content: "Is the sky blue?"}}, Sampling: llm.Sampling{MaxTokens: 10}, Format: &llm.Format{Choice: []string{"yes", "no"}},
	})
	var f *llm.Failure
	if errors.As(err, &f) && f.Kind == llm.Refused {
		t.Logf("a choice: %v (%s)", f, f.Hint)
	} else if err != nil || rep.Choices[0].Text != "yes" && rep.Choices[0].Text != "no" {
		t.Errorf("a choice: got %+v, %v", rep, err)
	}
}
