package sse

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestEvents(t *testing.T) {
	const in = ": hi\r\ndata: a\r\n\r\nevent: x\ndata:b\ndata: c\nid: 1\n\n\n\ndata\n\ndata:\n\ndata:  d\n\ndata: half\n"
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "bytes": iotest.OneByteReader(strings.NewReader(in)), "late error": iotest.DataErrReader(strings.NewReader(in))} {
		e, lives := New(r, nil, 1<<10), 0
		var got []string
		var err error
		for {
			var b []byte
			if b, err = e.Next(func() { lives++ }); err != nil {
				break
			}
			got = append(got, string(b))
		}
		if d := cmp.Diff([]string{"a", "b\nc", "", " d"}, got); d != "" || err != io.EOF || lives != 1 {
			t.Errorf("%s: got %v, %d signs of life (-want +got):\n%s", name, err, lives, d)
		}
	}
}

func TestStray(t *testing.T) {
	e := New(strings.NewReader("id: 1\ndata: a\n\n{\n  \"error\": 1\n}\n\nevent\ndata: b\n\n"), nil, 1<<10)
	for {
		if _, err := e.Next(func() {}); err != nil {
			break
		}
	}
	if want := "{\n  \"error\": 1\n}\n"; string(e.Stray) != want {
		t.Errorf("got %q, want %q", e.Stray, want)
	}
}
