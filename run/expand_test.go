package run

import (
	"testing"

	"matrix"
)

// A task that is to become children keeps texts, and nothing that was parsed of them: it
// may wait for long, and what is parsed takes many times as much memory.
func TestExpandForgetsParsed(t *testing.T) {
	w := &Worker{roles: map[string]*role{"one": {}}}
	item, err := matrix.NewValue(map[string]any{"list": []any{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	task := &matrix.Task{Item: item, Turns: []matrix.Turn{{Role: "split", Data: item}}}
	x := matrix.Expansion{Items: []matrix.Value{matrix.RawValue([]byte("1"))}, As: "x", Role: "one"}
	if d := w.expand(task, matrix.Expand(x)); d.Expand == nil {
		t.Fatalf("got %+v", d.Outcome)
	}
	for name, v := range map[string]matrix.Value{"item": task.Item, "turn": task.Turns[0].Data} {
		if string(v.Raw()) != string(item.Raw()) {
			t.Errorf("%s: got %s, want %s", name, v.Raw(), item.Raw())
		}
		parses := testing.AllocsPerRun(10, func() {
			v := v
			v.Any()
		})
		if parses == 0 {
			t.Errorf("%s: what was parsed is kept", name)
		}
	}
}
