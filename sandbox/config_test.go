package sandbox

import (
	"encoding"
	"testing"
)

func TestTexts(t *testing.T) {
	for _, c := range []struct {
		in   encoding.TextUnmarshaler
		text string
		want string // what is written for it; empty: it is refused
	}{
		{new(Bytes), "65536", "64KiB"},
		{new(Bytes), "1.5GiB", "1536MiB"},
		{new(Bytes), "0", "0"},
		{new(Bytes), "1000", "1000"},
		{new(Bytes), "5 MB", ""},
		{new(Bytes), "-1", ""},
		{new(Bytes), "NaN", ""},
		{new(Size), "auto", "auto"},
		{new(Size), "12", "12"},
		{new(Size), "0", ""},
		{new(Net), "none", "none"},
		{new(Net), "all", ""},
	} {
		err := c.in.UnmarshalText([]byte(c.text))
		if (err != nil) != (c.want == "") {
			t.Errorf("%T %q: %v", c.in, c.text, err)
			continue
		}
		if err == nil {
			if got, err := c.in.(encoding.TextMarshaler).MarshalText(); err != nil || string(got) != c.want {
				t.Errorf("%T %q: written as %q, %v, want %q", c.in, c.text, got, err, c.want)
			}
		}
	}
}

func TestKeyName(t *testing.T) {
	a, b := Key{"r", "p", "t"}, Key{"r", "p", "u"}
	if got, want := a.Name(), "mx-454349e4-p-e3b98a4da31a"; got != want || a.Name() == b.Name() {
		t.Errorf("got %s and %s, want %s and another one", got, b.Name(), want)
	}
}
