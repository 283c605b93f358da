package sim

import (
	"fmt"

	"matrix/internal/grammar"
)

// newGrammar reads a grammar that replies are to keep to.
func newGrammar(text string) (*grammar.Grammar, error) {
	const most = 1 << 20
	g, err := grammar.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("grammar: %w", err)
	}
	if n := g.Least(); n > most {
		return nil, fmt.Errorf("grammar: the shortest text takes %d steps to write, more than %d", n, most)
	}
	return g, nil
}
