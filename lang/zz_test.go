package lang
import ("testing";"fmt";"github.com/nikolalohinski/gonja/v2/tokens")
func TestZZ(t *testing.T) {
	l := newLanguage()
	for _, src := range []string{"{{ a +\n  b }}", "{{ a & b ? c; $d \\ }}", "{% endif +%}x", "{% if a +%}x", "{{ a in[1] }}", "{{ 'a\\'b' }}{{ a +}}", "{{ (a }}", "{{ a) }}", "{% x", "{{ 'abc }}", "{{- a -}}"} {
		st := tokens.LexAll(src, l.config)
		fmt.Printf("%q: ", src)
		for i:=0;i<40;i++ { c := st.Current(); if c==nil {break}; fmt.Printf("%s(%q,%d) ", tokens.Names[c.Type], c.Val, c.Pos); if st.End() {break}; st.Next() }
		fmt.Println()
	}
}
