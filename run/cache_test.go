package run

import (
	"context"
	"fmt"
	"testing"

	"matrix"
)

// logged is a message of a task whose log is not to be read where reads is nil.
func logged(id string, reads *int, records ...[]byte) *matrix.Message {
	return &matrix.Message{
		Task: id, Hop: len(records) - 1, Sum: matrix.Sum(records[len(records)-1]),
		Log: func(context.Context, int) ([][]byte, error) {
			if *reads++; *reads < 0 {
				return nil, fmt.Errorf("%s was read", id)
			}
			return records, nil
		},
	}
}

// What a cache holds is good for the record that it was made of alone.
func TestCache(t *testing.T) {
	task := func(id string, turns ...string) *matrix.Task {
		x := &matrix.Task{ID: id, Row: id, Hop: len(turns)}
		for i, text := range turns {
			x.Turns = append(x.Turns, matrix.Turn{Role: "a", Text: text, Hop: i + 1})
		}
		return x
	}
	seed := encodeSeed(task("x"))
	step := func(text string) []byte { return encodeStep(task("x", text), 0) }
	ours, theirs := step("ours"), step("theirs")
	for _, c := range []struct {
		name string
		m    func(reads *int) *matrix.Message
		want string // the last turn
		read int
	}{
		{"as it was left", func(n *int) *matrix.Message { return logged("x", n, seed, ours) }, "ours", 0},
		{"another record at that hop", func(n *int) *matrix.Message { return logged("x", n, seed, theirs) }, "theirs", 1},
		{"the same record at another hop", func(n *int) *matrix.Message { return logged("x", n, seed, theirs, ours) }, "ours", 1},
		{"an older hop", func(n *int) *matrix.Message { return logged("x", n, seed) }, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := newCache(cacheBytes)
			cache.put(&kept{key: "x", t: task("x", "ours"), size: 1, hop: 1, sum: matrix.Sum(ours)})
			reads := 0
			m := c.m(&reads)
			k, err := cache.load(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if last := k.t.Last(); last != nil {
				got = last.Text
			}
			if got != c.want || reads != c.read || k.t.Hop != m.Hop {
				t.Errorf("got %q at hop %d in %d reads, want %q at hop %d in %d", got, k.t.Hop, reads, c.want, m.Hop, c.read)
			}
			if _, ok := cache.take(m); ok || cache.bytes != 0 {
				t.Errorf("what was taken is still there, with %d bytes", cache.bytes)
			}
		})
	}
}

// A cache is bounded, whatever is put into it, and forgets what nobody takes.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(1000)
	put := func(id string, size int) { c.put(&kept{key: id, t: &matrix.Task{ID: id}, size: size}) }
	for i := range 100 {
		put(fmt.Sprint(i), 90+i%10)
		put(fmt.Sprint(i), 90) // once more
	}
	if c.bytes > c.most || c.bytes < 900 || len(c.tasks) != c.bytes/90 {
		t.Errorf("%d bytes of %d tasks, want up to %d", c.bytes, len(c.tasks), c.most)
	}
	put("large", 2000)
	if c.bytes > c.most {
		t.Errorf("%d bytes, want up to %d", c.bytes, c.most)
	}
}
