package gemini

import (
	"testing"

	"matrix/llm/internal/rest"
	"matrix/matrixtest"
)

func TestStreamIsQuiet(t *testing.T) {
	d := &Driver{conn: &rest.Conn{}}
	matrixtest.QuietStream(t, `{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}`, `{"candidates":[{"finishReason":"STOP"}]}`, d.stream)
}
