package llm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"matrix/internal/textfile"
)

// listing is a source: a file with a base URL a line.
type listing struct {
	path string
	half []byte // content without a last newline, when it was seen
}

// resolve reads the file. One that is not there has no endpoints.
func (l *listing) resolve(context.Context) ([]string, error) {
	f, err := textfile.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{}, fmt.Errorf("%s is not there yet", l.path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxListing+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxListing {
		return nil, fmt.Errorf("%s is larger than %d MiB: it should be a list of base URLs", l.path, maxListing>>20)
	}
	// A writer that is under way leaves half a line, or nothing at all.
	if !bytes.HasSuffix(b, []byte("\n")) && (l.half == nil || !bytes.Equal(b, l.half)) {
		l.half = append([]byte{}, b...)
		return nil, errHalf
	}
	l.half = nil
	urls, err := readListing(l.path, b)
	if err == errNone { //nolint:errorlint // never wrapped
		err = fmt.Errorf("%s lists no base URL", l.path)
	}
	return urls, err
}

// readListing reads a base URL a line; a # at the beginning or behind a blank
// starts a comment. A line that is not a base URL is an error and leaves the others
// as they are; where there is no line at all, it is errNone. from says where the
// lines are from.
func readListing(from string, b []byte) ([]string, error) {
	urls := []string{}
	var errs []error
	more := 0
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, mark := range []string{" #", "\t#"} {
			line, _, _ = strings.Cut(line, mark)
		}
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		err := checkURL(line)
		if err == nil && strings.ContainsAny(line, " \t") {
			err = errors.New("want one base URL a line")
		}
		if err != nil {
			if len(errs) < 3 {
				errs = append(errs, fmt.Errorf("%s, line %d: %w", from, i+1, err))
			} else {
				more++
			}
			continue
		}
		urls = append(urls, line)
	}
	switch {
	case more == 1:
		errs = append(errs, fmt.Errorf("%s: 1 more line is not a base URL", from))
	case more > 1:
		errs = append(errs, fmt.Errorf("%s: %d more lines are not base URLs", from, more))
	case len(urls)+len(errs) == 0:
		return urls, errNone
	}
	return urls, errors.Join(errs...)
}

var errNone = errors.New("no base URL")

// command is a source: a program that prints base URLs, and its arguments.
type command []string

// resolve runs the program.
func (c command) resolve(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, c[0], c[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, errs := limited{strict: true}, limited{}
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	from := "command " + c[0]
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not end within %v", from, lookTimeout)
	case out.more:
		return nil, fmt.Errorf("%s printed more than %d MiB: it should print base URLs", from, maxListing>>20)
	case errors.Is(err, exec.ErrWaitDelay): // a child of it holds its output open
	case err != nil:
		if said := lastLine(errs.b); said != "" {
			return nil, fmt.Errorf("%s: %w: %s", from, err, said)
		}
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	urls, err := readListing(from, out.b)
	if err == errNone { //nolint:errorlint // never wrapped
		err = fmt.Errorf("%s prints no base URL", from)
	}
	return urls, err
}

// lastLine is the last line that says something, up to 300 bytes of it.
func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	b = b[bytes.LastIndexByte(b, '\n')+1:]
	return strings.ToValidUTF8(string(b[:min(len(b), 300)]), "")
}

// limited keeps the first maxListing bytes that are written to it, and fails
// then where it is strict.
type limited struct {
	b      []byte
	strict bool
	more   bool
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), maxListing-len(l.b))
	l.b = append(l.b, b[:n]...)
	l.more = l.more || n < len(b)
	if l.strict && l.more { // ends the writer
		return n, io.ErrShortWrite
	}
	return len(b), nil
}
