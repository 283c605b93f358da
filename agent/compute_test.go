package agent

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"matrix"
	"matrix/lang"
)

func isJSON(b []byte) bool { return json.Valid(b) }

func TestCompute(t *testing.T) {
	a, err := NewCompute("extract", Compute{
		{"zeta", `find(turns[0].text, "\\(([A-J])\\)")`},
		{"agreed", `zeta == item.answer`},
		{"item", `"shadowed"`},
		{"my-field", `1`},
		{"words", `words(last.text)`},
		{"both", `{"w": words, "html": "<b>", "item": item.answer, "limit": params.limit}`},
	}, lang.Params{"limit": 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	turn, err := a.Act(t.Context(), task(t))
	want := `{"zeta":"A","agreed":false,"item":"shadowed","my-field":1,"words":["Go","on."],"both":{"html":"<b>","item":"B","limit":3,"w":["Go","on."]}}`
	if err != nil || turn.Data.String() != want {
		t.Errorf("got %+v, %v, want %s", turn, err, want)
	}
}

func TestComputeErrors(t *testing.T) {
	for _, tt := range []struct {
		c     Compute
		field string
		want  string
	}{
		{nil, "", "compute has no field"},
		{Compute{{"a", "1"}, {"a", "2"}}, "a", "twice"},
		{Compute{{"a", "foo"}, {"b", "1 +"}}, "a b", "unknown name foo"},
		{Compute{{"a", "later + 1"}, {"later", "1"}}, "a", "a field that comes later"},
	} {
		_, err := NewCompute("r", tt.c, nil, nil)
		if err == nil || fields(err) != tt.field || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v at %q, want %s at %q", tt.c, err, fields(err), tt.want, tt.field)
		}
	}
	a, err := NewCompute("r", Compute{{"ok", "1"}, {"bad", "item.zzz"}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Act(t.Context(), task(t))
	var fail *matrix.FailError
	if want := `cannot compute bad: item has no field "zzz", it has answer, question (at column 6)`; !errors.As(err, &fail) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got, want := mentioned(a), "ok [] [] bad [zzz] []"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkCompute(b *testing.B) {
	a, err := NewCompute("match", Compute{
		{"agreed", `last.data.teacher != nil && last.data.teacher == last.data.student`},
		{"correct", `agreed && last.data.teacher == item.answer`},
	}, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	t := task(b)
	t.Turns = append(t.Turns, matrix.Turn{Role: "extract", Data: value(b, `{"teacher":"B","student":"B"}`)})
	b.ReportAllocs()
	for b.Loop() {
		turn, err := a.Act(b.Context(), t)
		if err != nil {
			b.Fatal(err)
		}
		turn.Data.Any()
	}
}
