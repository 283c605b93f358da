package llm

import (
	"os"
	"testing"
	"time"
)

// A real server, where MATRIX_TEST_BASE_URL names one (and MATRIX_TEST_MODEL
// its model, MATRIX_TEST_API_KEY its key).
func TestLiveServer(t *testing.T) {
	url := os.Getenv("MATRIX_TEST_BASE_URL")
	if url == "" {
		t.Skip("MATRIX_TEST_BASE_URL is not set")
	}
	m := client(t, OpenAI{BaseURL: url, Model: os.Getenv("MATRIX_TEST_MODEL"), APIKey: os.Getenv("MATRIX_TEST_API_KEY")}, tuned)
	seed, temp := int64(1), 0.2
	rep, err := m.Chat(within(t, 5*time.Minute), &Request{
		Messages: []Message{{"system", "Answer in one sentence."}, {"user", "What is a coral?"}},
		Sampling: Sampling{MaxTokens: 40, Seed: &seed, Temperature: &temp},
		Key:      "live",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s at %s, %d+%d tokens in %v after %d retries, %s: %q", rep.Model, rep.Endpoint,
		rep.Usage.PromptTokens, rep.Usage.CompletionTokens, rep.Took, rep.Retries, rep.Choices[0].Finish, rep.Choices[0].Text)
	if rep.Choices[0].Text == "" || rep.Usage.CompletionTokens == 0 {
		t.Errorf("got %+v", rep)
	}
}
