package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"matrix/llm"
)

// line is a recorded reply, as Record writes it and a replay reads it.
type line struct {
	ID       string      `json:"id"`
	Role     string      `json:"role"`
	N        int         `json:"n"` // Ask.Nth
	Trial    int         `json:"trial"`
	Reask    int         `json:"reask,omitempty"`
	Model    string      `json:"model,omitempty"`
	Revision string      `json:"revision,omitempty"`
	sample               // the first reply
	Samples  []sample    `json:"samples,omitempty"` // all replies, where there are several
	Vectors  [][]float32 `json:"vectors,omitempty"` // of an embedding
	Usage    *llm.Usage  `json:"usage,omitempty"`
}

type sample struct {
	Text      string          `json:"text"`
	Reasoning string          `json:"reasoning,omitempty"`
	ToolCalls []toolCall      `json:"tool_calls,omitempty"`
	Finish    string          `json:"finish,omitempty"`
	Logprobs  json.RawMessage `json:"logprobs,omitempty"`
	Opaque    json.RawMessage `json:"opaque,omitempty"`
}

// toolCall is a ToolCall as files have it.
type toolCall struct {
	ID        string    `json:"id,omitempty"`
	Name      string    `json:"name"`
	Arguments arguments `json:"arguments"`
}

// arguments are the text that a model wrote. Who writes a file by hand may give
// the JSON itself.
type arguments string

// UnmarshalJSON implements json.Unmarshaler.
func (a *arguments) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, (*string)(a))
	}
	*a = arguments(b)
	return nil
}

func sampleOf(c *llm.Choice) sample {
	s := sample{Text: c.Text, Reasoning: c.Reasoning, Finish: c.Finish, Logprobs: c.Logprobs, Opaque: c.Opaque}
	for _, t := range c.ToolCalls {
		s.ToolCalls = append(s.ToolCalls, toolCall{t.ID, t.Name, arguments(t.Arguments)})
	}
	return s
}

// choice is s as a reply.
func (s *sample) choice() llm.Choice {
	c := llm.Choice{Text: s.Text, Reasoning: s.Reasoning, Finish: s.Finish, Logprobs: s.Logprobs, Opaque: s.Opaque}
	for _, t := range s.ToolCalls {
		c.ToolCalls = append(c.ToolCalls, llm.ToolCall{ID: t.ID, Name: t.Name, Arguments: string(t.Arguments)})
	}
	return c
}

type recorder struct {
	llm.Model
	path string

	mu   sync.Mutex
	file *os.File
	buf  bytes.Buffer
}

// Record returns a model that answers as m does and appends each reply to a
// JSONL file, which a replay model replays exactly. A reply stands in the file
// before Do returns it; the file reaches the disk when the operating system
// writes it there, at the latest on Close. Lines that are there already stay;
// a torn last line, left by a crash, is cut off. Closing it closes m.
func Record(m llm.Model, file string) (llm.Model, error) {
	for _, ext := range []string{".gz", ".zst"} {
		if strings.HasSuffix(file, ext) {
			return nil, &llm.FieldError{Field: "record", Err: fmt.Errorf("%s: cannot append to a compressed file; leave out %s", file, ext)}
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return nil, &llm.FieldError{Field: "record", Err: err}
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, &llm.FieldError{Field: "record", Err: err}
	}
	if err := completeLine(f); err != nil {
		f.Close()
		return nil, &llm.FieldError{Field: "record", Err: fmt.Errorf("%s: %w", file, err)}
	}
	return &recorder{Model: m, path: file, file: f}, nil
}

// completeLine makes a file end in a whole line: a last line without its line break
// gets one when it is JSON, and goes when it is not.
func completeLine(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	var tail []byte // from the last line break on
	for start := size; start > 0; {
		n := min(start, 64<<10)
		start -= n
		block := make([]byte, n, int(n)+len(tail))
		if _, err := f.ReadAt(block, start); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(block, '\n'); i >= 0 {
			tail = append(block[i+1:], tail...)
			break
		}
		tail = append(block, tail...)
	}
	switch {
	case len(tail) == 0:
		return nil
	case json.Valid(tail):
		_, err = f.Write([]byte{'\n'})
		return err
	}
	return f.Truncate(size - int64(len(tail)))
}

// Unwrap is the model whose replies are recorded.
func (r *recorder) Unwrap() llm.Model { return r.Model }

// Do implements Model.
func (r *recorder) Do(ctx context.Context, req *llm.Request) (*llm.Reply, error) {
	rep, err := r.Model.Do(ctx, req)
	if err != nil {
		return nil, err
	}
	a := &req.Ask
	l := line{
		ID: a.ID, Role: a.Role, N: a.Nth, Trial: a.Trial, Reask: a.Reask,
		Model: rep.Model, Revision: rep.Revision, Vectors: rep.Vectors, Usage: &rep.Usage,
	}
	for i := range rep.Choices {
		l.Samples = append(l.Samples, sampleOf(&rep.Choices[i]))
	}
	if len(l.Samples) > 0 {
		l.sample = l.Samples[0]
	}
	if len(l.Samples) == 1 {
		l.Samples = nil
	}
	if err := r.write(&l); err != nil {
		return nil, &llm.Error{Kind: llm.Fatal, Model: rep.Model, Msg: fmt.Sprintf("cannot record the reply: %v", err), Hint: "make room or change record, then run again", Err: err}
	}
	return rep, nil
}

// write appends a line in one write. One that got only a part into the file
// takes it out again.
func (r *recorder) write(l *line) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf.Reset()
	enc := json.NewEncoder(&r.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(l); err != nil {
		return err
	}
	n, err := r.file.Write(r.buf.Bytes())
	if err != nil && n > 0 {
		if info, serr := r.file.Stat(); serr == nil {
			err = errors.Join(err, r.file.Truncate(info.Size()-int64(n)))
		}
	}
	return err
}

// Close implements Model.
func (r *recorder) Close() error {
	err := r.file.Sync()
	return errors.Join(r.Model.Close(), err, r.file.Close())
}
