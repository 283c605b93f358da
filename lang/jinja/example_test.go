package jinja_test

import (
	"fmt"

	"matrix/lang/jinja"
)

// names are an Env: what stands under each name.
type names map[string]any

func (n names) Lookup(name string) (any, bool) { v, ok := n[name]; return v, ok }
func (names) Seed() (uint64, uint64)           { return 0, 0 }

func ExampleCompile() {
	t, err := jinja.Compile("{% for x in guests %}{{ loop.index }}. {{ x | title }}\n{% endfor %}{{ gusets }}", &jinja.Language{Names: []string{"guests"}})
	fmt.Println(t, err)
	t, err = jinja.Compile("{% for x in guests %}{{ loop.index }}. {{ x | title }}\n{% endfor %}", &jinja.Language{Names: []string{"guests"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := t.Render(names{"guests": jinja.NewList("ann", "bob")})
	fmt.Print(text, err)
	// Output:
	// <nil> unknown name gusets, did you mean guests? (at line 2, column 16)
	// 1. Ann
	// 2. Bob
	// <nil>
}
