package replay

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"matrix/llm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kindOf returns the *llm.Error in err.
func kindOf(t testing.TB, err error) *llm.Error {
	t.Helper()
	var e *llm.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want *llm.Error", err, err)
	}
	return e
}
