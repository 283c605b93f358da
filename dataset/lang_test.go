package dataset_test

import (
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/dataset"
	"matrix/lang"
)

// Where and id as a config writes them.
func TestCompiledExpressions(t *testing.T) {
	compile := func(src string) *lang.Expr {
		e, err := lang.CompileExpr(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	path := writeFile(t, t.TempDir(), "a.jsonl", `{"n":1,"s":"a"}`+"\n"+`{"n":2,"s":"b"}`+"\n"+`{"s":"c"}`+"\n"+`{"n":4}`+"\n"+`{"n":6,"s":"d"}`)
	s := open(t, dataset.Options{Paths: []string{path}, Where: compile("item.n % 2 == 0").Bool, ID: compile(`item.s + "-" + string(item.n)`).Eval})
	var got []string
	for _, r := range rowsOf(t, s, matrix.Position{}) {
		got = append(got, show(r))
	}
	want := []string{"2 b-2 {", "3 ! where: ", "4 ! id: ", "5 d-6 {"}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got %q, want %q", got, want)
	}
}
