package agent

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"matrix"
	"matrix/internal/grammar"
	"matrix/internal/jsonschema"
	"matrix/internal/regex"
	"matrix/lang"
	"matrix/llm"
)

// Parse says what is read out of a reply. At most one of regex, json (or
// schema), choice and grammar is set.
type Parse struct {
	Regex    string   `yaml:"regex" filled:"true" doc:"Regular expression; its first match counts. Named groups become the fields of the turn's data; without any, the first group, or else the whole match, becomes the one field."`
	Count    Matches  `yaml:"count" doc:"How many matches of regex a reply has: 1, and one with none or several does not parse; from 2 on exactly so many, as a list in the one field; all, a list of however many there are, none too. In lists, named groups make an object of each match. Default: one or more, of which the first counts."`
	Field    string   `yaml:"field" doc:"Name of the one field that regex, count, choice or grammar fills. Default: choice for choice, else answer."`
	JSON     bool     `yaml:"json" doc:"The reply is JSON, or holds it in a fenced block or as an object in its prose: that becomes the turn's data. Several that differ are an error, and so is JSON that is cut off or not valid."`
	Schema   any      `yaml:"schema" doc:"JSON Schema that the JSON must fit, as a map, or as text in JSON or YAML. Implies json; of several values in a reply, the one that fits counts."`
	Choice   []string `yaml:"choice" filled:"true" doc:"Options, one of which the reply gives as its answer, in any case: it is that option, says so (Answer: B), begins or ends with it, or names it alone in a plain statement. What hedges, negates, lies in between (4.7 of 1 to 5) or names several is an error."`
	Grammar  string   `yaml:"grammar" filled:"true" doc:"Grammar of the whole reply, as rules NAME ::= ... of GBNF or xgrammar's EBNF, of which root is the whole; the reply becomes the one field. It is always sent to the service, and every reply is checked."`
	Enforce  bool     `yaml:"enforce" doc:"Have the service hold the model to the schema, JSON, choice or regular expression, in its own way. The reply is checked all the same. A regular expression then says what the whole reply is." default:"false"`
	Optional bool     `yaml:"optional" doc:"A reply in which nothing is found is fine, and the turn has no data." default:"false"`
}

// Matches is how many matches of a regular expression a reply has; 0 where any will do.
type Matches int

const allMatches Matches = -1

// UnmarshalText reads a number or all.
func (m *Matches) UnmarshalText(text []byte) error {
	if string(text) == "all" {
		*m = allMatches
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > 1e6 {
		return fmt.Errorf("got %q, want a number of matches, 1 or more, or all", text)
	}
	*m = Matches(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (m Matches) MarshalText() ([]byte, error) {
	if m == allMatches {
		return []byte("all"), nil
	}
	return strconv.AppendInt(nil, int64(m), 10), nil
}

// listed reports whether the matches become a list.
func (m Matches) listed() bool { return m == allMatches || m > 1 }

// reader reads data out of a reply. The zero reader reads nothing.
type reader struct {
	read     func(text string) (matrix.Value, error)
	optional bool
	format   *llm.Format // what the service is to hold the model to; nil for nothing
}

func newReader(p Parse) (reader, error) {
	var bad fieldErrors
	r := reader{optional: p.Optional}
	kinds := 0
	set := func(format *llm.Format, f func(string) (matrix.Value, error)) {
		r.read = f
		if p.Enforce || p.Grammar != "" {
			r.format = format
		}
		kinds++
	}
	if p.Regex != "" {
		re, err := regex.Compile(p.Regex)
		if err != nil {
			bad.addf("parse.regex", "not a regular expression: %w", err)
		}
		set(&llm.Format{Regex: p.Regex}, func(s string) (matrix.Value, error) { return readRegexp(s, re, p.Count, cmp.Or(p.Field, "answer")) })
	}
	if p.JSON || p.Schema != nil {
		schema, err := jsonschema.Compile(p.Schema)
		bad.add("parse.schema", err)
		format := &llm.Format{JSON: true}
		if p.Schema != nil {
			raw, err := jsonschema.JSON(p.Schema)
			if err == nil && p.Enforce && raw[0] != '{' {
				bad.addf("parse.enforce", "the schema %s says nothing that a service could enforce", raw)
			}
			format = &llm.Format{Schema: raw}
		}
		set(format, func(s string) (matrix.Value, error) { return readJSON(s, schema) })
	}
	if len(p.Choice) > 0 {
		c, err := newChooser(p.Choice)
		bad.add("parse.choice", err)
		set(&llm.Format{Choice: p.Choice}, func(s string) (matrix.Value, error) {
			option, err := c.choose(s)
			if err != nil {
				return matrix.Value{}, err
			}
			return matrix.NewValue(map[string]any{cmp.Or(p.Field, "choice"): option})
		})
	}
	if p.Grammar != "" {
		g, err := grammar.Parse(p.Grammar)
		bad.add("parse.grammar", grammarError(err))
		set(&llm.Format{Grammar: p.Grammar}, func(s string) (matrix.Value, error) {
			return readGrammar(s, g, cmp.Or(p.Field, "answer"))
		})
	}
	switch {
	case p.Count != 0 && p.Regex == "":
		bad.addf("parse.count", "needs regex beside it")
	case p.Count.listed() && p.Enforce:
		bad.addf("parse.count", "with enforce the regular expression is the whole reply, which has one match")
	}
	switch {
	case kinds > 1:
		bad.addf("parse", "want one of regex, json, choice and grammar, got %d of them", kinds)
	case kinds == 0 && p.Field != "":
		bad.addf("parse.field", "needs regex, choice or grammar beside it")
	case kinds == 0 && p.Optional:
		bad.addf("parse.optional", "needs regex, json, choice or grammar beside it")
	case kinds == 0 && p.Enforce:
		bad.addf("parse.enforce", "there is nothing to enforce: it needs regex, json, schema or choice beside it")
	}
	return r, bad.err()
}

// parse reads the data of a reply; absent where nothing is to be read, or
// nothing is found and that is fine.
func (r reader) parse(text string) (matrix.Value, error) {
	if r.read == nil {
		return matrix.Value{}, nil
	}
	v, err := r.read(text)
	if err != nil && r.optional {
		return matrix.Value{}, nil
	}
	return v, err
}

// grammarError places what is wrong with a grammar in the config, and says what
// to do where a service may take it all the same.
func grammarError(err error) error {
	var e *grammar.Error
	if !errors.As(err, &e) {
		return err
	}
	msg := fmt.Sprintf("line %d, character %d of the grammar: %s", e.Line, e.Char, e.Msg)
	if e.Foreign {
		msg += "; extra_body sends what is not read here, without a check of the replies, under the service's own key (at vLLM structured_outputs: {grammar: ...})"
	}
	return &lang.Error{Line: e.Line, Column: e.Char, Msg: msg}
}

func readGrammar(s string, g *grammar.Grammar, field string) (matrix.Value, error) {
	err := g.Match(s)
	if limit := (*grammar.LimitError)(nil); errors.As(err, &limit) {
		return matrix.Value{}, fmt.Errorf("the reply cannot be checked by the grammar: %w", err)
	}
	if err != nil {
		return matrix.Value{}, fmt.Errorf("the reply does not match the grammar: %w", err)
	}
	return matrix.NewValue(map[string]any{field: s})
}

// readRegexp finds the matches of re. Of several of which all count it makes a list.
func readRegexp(s string, re *regexp.Regexp, count Matches, field string) (matrix.Value, error) {
	most := 1
	if count != 0 {
		most = -1
	}
	found := re.FindAllStringSubmatchIndex(s, most)
	switch {
	case len(found) == 0 && count != allMatches:
		return matrix.Value{}, fmt.Errorf("the reply does not match the regular expression %s", re)
	case count > 0 && len(found) != int(count):
		return matrix.Value{}, fmt.Errorf("the reply matches the regular expression %s %d times, want %d", re, len(found), count)
	}
	named := slices.ContainsFunc(re.SubexpNames(), func(name string) bool { return name != "" })
	match := func(m []int) any {
		group := func(i int) any {
			if m[2*i] < 0 {
				return nil
			}
			return s[m[2*i]:m[2*i+1]]
		}
		if !named {
			return group(min(1, re.NumSubexp()))
		}
		data := map[string]any{}
		for i, name := range re.SubexpNames() {
			if name != "" {
				data[name] = group(i)
			}
		}
		return data
	}
	if count.listed() {
		list := make([]any, len(found))
		for i, m := range found {
			list[i] = match(m)
		}
		return matrix.NewValue(map[string]any{field: list})
	}
	if one := match(found[0]); named {
		return matrix.NewValue(one)
	} else {
		return matrix.NewValue(map[string]any{field: one})
	}
}

func readJSON(s string, schema *jsonschema.Schema) (matrix.Value, error) {
	if schema == nil {
		return lang.ExtractJSON(s, nil)
	}
	return lang.ExtractJSON(s, func(v matrix.Value) error {
		var misfit *jsonschema.MisfitError
		if err := schema.Check(v.Any()); errors.As(err, &misfit) {
			return fmt.Errorf("the JSON does not fit the schema: %w", misfit)
		} else if err != nil {
			return fmt.Errorf("the JSON cannot be checked: %w", err)
		}
		return nil
	})
}
