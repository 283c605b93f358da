package inside

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzCommand(f *testing.F) {
	for _, c := range []Command{{}, {Shell: "true"}, {Args: []string{"a", ""}, Dir: "/d", Env: map[string]string{"A": "b", "": "c"}, Timeout: time.Second, Output: 1, Merge: true}} {
		var e encoder
		c.encode(&e)
		f.Add(e.buf)
	}
	f.Add(bytes.Repeat([]byte{0xff}, 30))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := decoder{buf: b}
		var c, again Command
		c.decode(&d)
		if !d.done() {
			return
		}
		var e encoder
		c.encode(&e)
		d = decoder{buf: e.buf}
		if again.decode(&d); !d.done() || !reflect.DeepEqual(c, again) {
			t.Fatalf("got %+v, want %+v", again, c)
		}
	})
}

// Whatever a supervisor sends, its client returns.
func FuzzConn(f *testing.F) {
	hello := encoder{}
	hello.uint(0)
	var r encoder
	(&Result{Code: 3}).encode(&r)
	first := appendFrame(nil, kindHello, 0, []byte(magic), hello.buf)
	f.Add(appendFrame(first, kindReply, 1, []byte{0}, r.buf))
	f.Add(appendFrame(appendFrame(appendFrame(first, kindData, 1, []byte{pipeOut}, []byte("x")), kindEnd, 1, []byte{pipeOut}), kindReply, 2, []byte{byte(NotExist)}, []byte("none")))
	f.Add(appendFrame(appendFrame(first, kindWindow, 1, []byte{pipeIn, 5}), kindData, 2, []byte{pipeErr}, bytes.Repeat([]byte{1}, window+1)))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := NewConn(scripted{bytes.NewReader(b)})
		done := make(chan struct{})
		go func() {
			defer close(done)
			if r, err := c.Exec(t.Context(), Command{Shell: "x", Stdin: []byte("y"), Output: 10}); err == nil && len(r.Out)+len(r.Err) > 2*(10+1<<10) {
				t.Errorf("%d bytes are more than were asked for", len(r.Out)+len(r.Err))
			}
			if s, err := c.Get(t.Context(), "f", 10); err == nil {
				io.Copy(io.Discard, s)
				s.Close()
			}
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("a call does not return")
		}
		c.Close()
		var lost *LostError
		if !errors.As(c.Err(), &lost) {
			t.Fatalf("got %v, want a LostError", c.Err())
		}
	})
}

type scripted struct{ io.Reader }

func (scripted) Write(p []byte) (int, error) { return len(p), nil }
func (scripted) Close() error                { return nil }

func FuzzCutter(f *testing.F) {
	f.Add("one two three", 5, 3)
	f.Add(strings.Repeat("äöü€", 20), 30, 7)
	f.Fuzz(func(t *testing.T, text string, limit, step int) {
		if limit < 1 || limit > 1<<16 || step < 1 {
			return
		}
		c := cutter{limit: limit}
		for rest := text; rest != ""; {
			n := min(step, len(rest))
			c.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		out := string(c.bytes())
		if c.cut == 0 {
			if out != text {
				t.Fatalf("got %q, want %q", out, text)
			}
			return
		}
		before, after, ok := strings.Cut(out, "\n[... ")
		_, after, _ = strings.Cut(after, " bytes cut ...]\n")
		if int64(len(text)) != int64(len(before)+len(after))+c.cut && !strings.Contains(text, "[... ") {
			t.Fatalf("%q cut to %d: got %q and %q, cut %d", text, limit, before, after, c.cut)
		}
		if !ok || !strings.HasPrefix(text, before) || !strings.HasSuffix(text, after) || len(before)+len(after) > limit {
			t.Fatalf("%q cut to %d: got %q", text, limit, out)
		}
		if utf8.ValidString(text) && !utf8.ValidString(out) {
			t.Fatalf("%q cut to %d: a character was cut in two: %q", text, limit, out)
		}
	})
}

// Whatever a client sends, a supervisor says whether it makes sense. Requests are left out: they would be done.
func FuzzServer(f *testing.F) {
	f.Add(appendFrame(nil, kindData, 1, []byte{pipeIn}, []byte("x")))
	f.Add(appendFrame(appendFrame(nil, kindWindow, 1, []byte{pipeOut, 5}), kindEnd, 1, []byte{pipeIn}))
	f.Add(appendFrame(appendFrame(nil, kindPing, 0), kindCancel, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &server{out: io.Discard, calls: make(map[uint64]*call)}
		c := &call{id: 1, canceled: make(chan struct{}), in: newInbox(func(int) {})}
		c.out[pipeOut], c.out[pipeErr] = newOutbox(), newOutbox()
		s.calls[1] = c
		frames := frameReader{r: bytes.NewReader(b)}
		for {
			fr, err := frames.next()
			if err != nil || fr.kind == kindRequest || !s.frame(fr) {
				break
			}
		}
		if len(c.in.buf) > window || c.out[pipeOut].room > window {
			t.Fatalf("%d bytes wait, room for %d: a window is %d", len(c.in.buf), c.out[pipeOut].room, window)
		}
	})
}
