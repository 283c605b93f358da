package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"matrix/internal/child"
)

// process is a child that is asked one thing at a time.
type process struct {
	*child.Process
	lines <-chan child.Line
	hide  func(string) string

	seq      int64 // of the last question
	answered bool
	numbered bool // it returned seq, so it always will
}

// ready reports whether the child lives and has said nothing that it was not
// asked.
func (p *process) ready() bool {
	select {
	case <-p.lines:
		return false
	case <-p.Gone():
		return false
	default:
		return true
	}
}

// errLate: the child kept its answer until stdin ended, as a program does that
// does not flush, or reads all of its input first.
var errLate = errors.New("answered once stdin had ended")

var errMore = errors.New("printed more than one line for one task; print diagnostics to stderr, or return seq")

// ask writes a question, a JSON object, with its seq and returns the JSON object
// that comes back. After an error the process is of no use. quiet is how long
// nothing more must come after a first and after a later answer without seq.
func (p *process) ask(ctx context.Context, question []byte, quiet [2]time.Duration) ([]byte, error) {
	p.seq++
	written := make(chan error, 1)
	go func() {
		_, err := fmt.Fprintf(p.In, `{"seq":%d,`, p.seq)
		if err == nil {
			_, err = p.In.Write(question[1:])
		}
		written <- err
	}()
	stop := context.AfterFunc(ctx, func() { p.In.Close() }) // ends the write
	defer stop()
	var answer child.Line
	var ok bool
	select {
	case answer, ok = <-p.lines:
	case <-ctx.Done():
		<-written //nolint:errcheck // waits only
		err := ctx.Err()
		if !p.answered && errors.Is(err, context.DeadlineExceeded) && p.speaks() {
			err = errLate
		}
		p.Kill()
		return nil, err
	}
	var err error
	if ok {
		err = p.check(answer, quiet)
	} else {
		err = p.ExitError()
	}
	if err != nil {
		p.Kill()
		<-written //nolint:errcheck // waits only
		return nil, err
	}
	if err := <-written; err != nil {
		return nil, fmt.Errorf("answered before it had read the whole line: %w", err)
	}
	p.answered = true
	if !stop() { // its stdin is closed: it cannot be asked again
		p.Kill()
	}
	return answer.Text, nil
}

// speaks reports whether a JSON object comes within a moment.
func (p *process) speaks() bool {
	soon := time.NewTimer(moment)
	defer soon.Stop()
	select {
	case out := <-p.lines:
		return isObject(out.Text)
	case <-soon.C:
		return false
	}
}

// check reports whether a line is the one answer to the last question.
func (p *process) check(answer child.Line, quiet [2]time.Duration) error {
	var head struct {
		Seq json.RawMessage `json:"seq"`
	}
	if !isObject(answer.Text) {
		return fmt.Errorf("printed %s, which is not a JSON object; print diagnostics to stderr", p.printed(answer.Text))
	}
	if err := json.Unmarshal(answer.Text, &head); err != nil {
		hint := ""
		if bytes.Contains(answer.Text, []byte("NaN")) || bytes.Contains(answer.Text, []byte("Infinity")) {
			hint = " (JSON has no NaN and no Infinity: print null)"
		}
		return fmt.Errorf("printed %s, which is not a JSON object: %w%s", p.printed(answer.Text), err, hint)
	}
	if p.BytesRead() > answer.End {
		return errMore
	}
	if head.Seq != nil {
		if want := strconv.FormatInt(p.seq, 10); string(head.Seq) != want {
			return fmt.Errorf("answered with seq %s to the question with seq %s: it printed more than one line for a task before, or mixed them up",
				p.shorten(head.Seq), want)
		}
		p.numbered = true
		return nil
	}
	if p.numbered {
		return fmt.Errorf("printed %s without the seq that it returned before; print diagnostics to stderr", p.printed(answer.Text))
	}
	wait := quiet[0]
	if p.answered {
		wait = quiet[1]
	}
	still := time.NewTimer(wait)
	defer still.Stop()
	select {
	case _, ok := <-p.lines:
		if ok {
			return errMore
		}
	case <-still.C:
		if p.BytesRead() > answer.End { // half a line
			return errMore
		}
	}
	return nil
}

func isObject(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) > 0 && line[0] == '{'
}

func (p *process) printed(line []byte) string {
	if len(line) == 0 {
		return "an empty line"
	}
	return fmt.Sprintf("%q", p.shorten(line))
}

// shorten is the beginning of a line of the child, without secrets.
func (p *process) shorten(line []byte) string {
	return shorten([]byte(p.hide(string(line[:min(len(line), maxShown)]))))
}

// maxShown is how many bytes of a line shorten looks at.
const maxShown = 8 << 10
