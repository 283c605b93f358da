package anthropic

import (
	"testing"

	"matrix/llm/internal/rest"
	"matrix/matrixtest"
)

func TestStreamIsQuiet(t *testing.T) {
	d := &Driver{conn: &rest.Conn{}}
	matrixtest.QuietStream(t, `{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}`, `{"type":"message_stop"}`, d.stream)
}
