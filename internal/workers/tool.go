package workers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// ToolError says that a program of the system that workers are started on has
// failed, in its own words.
type ToolError struct {
	Tool  string // and what it was asked to do
	Words string // the end of what it wrote to its error output
	Err   error
}

func (e *ToolError) Error() string {
	if errors.Is(e.Err, exec.ErrNotFound) {
		return fmt.Sprintf("there is no program %s on PATH here", strings.Fields(e.Tool)[0])
	}
	if e.Words == "" {
		return fmt.Sprintf("%s: %v", e.Tool, e.Err)
	}
	return fmt.Sprintf("%s: %v: %s", e.Tool, e.Err, e.Words)
}

func (e *ToolError) Unwrap() error { return e.Err }

// mostWords bounds what is kept of an error output.
const mostWords = 4 << 10

// tool runs a program and returns what it wrote; what says what it is asked to do,
// for errors. Its arguments are seen by all users of the machine; in is not.
func tool(ctx context.Context, what string, in io.Reader, argv ...string) (string, error) {
	var out bytes.Buffer
	var words tail
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin, c.Stdout, c.Stderr = in, &out, &words
	c.WaitDelay = time.Second // what it started may hold its outputs
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", &ToolError{argv[0] + what, strings.TrimSpace(string(words.end)), err}
	}
	return out.String(), nil
}

// tail keeps the end of what is written to it.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if n := len(t.end) - mostWords; n > 0 {
		t.end = append(t.end[:0], t.end[n:]...)
	}
	return len(p), nil
}

// quote makes a word of a shell of one that may hold anything.
func quote(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

func quoteAll(words []string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = quote(w)
	}
	return strings.Join(all, " ")
}

// words splits a line as a shell does: at blanks outside of single and double quotes.
func words(line string) ([]string, error) {
	var all []string
	var word strings.Builder
	in, begun := rune(0), false
	for _, r := range line {
		switch {
		case in != 0 && r == in:
			in = 0
		case in != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			in, begun = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if in != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", in)
	}
	if begun {
		all = append(all, word.String())
	}
	return all, nil
}
