// Package jsonschema holds values against JSON Schemas that come from outside: with
// bounded work, and without reading a file or the network.
package jsonschema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"matrix/internal/regex"
)

const (
	maxBytes = 1 << 20 // of a schema as JSON
	maxSteps = 200_000 // schemas, and schemas in them, that one value is held against
)

// ErrWork is a validation that would take too long: a schema may refer to
// itself in ways that double the work with each level.
var ErrWork = fmt.Errorf("the schema takes more than %d steps to check: it refers to its parts over and over", maxSteps)

// Schema is a JSON Schema. It is safe for concurrent use.
type Schema struct{ pool sync.Pool }

// compiled is a schema that counts the steps of the validation it is used for.
type compiled struct {
	schema *jsonschema.Schema
	steps  int
	words  int // of the longest enum
}

// Compile compiles a schema given as a value or as text; nil for none.
func Compile(schema any) (*Schema, error) {
	if schema == nil {
		return nil, nil
	}
	raw, err := JSON(schema)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxBytes {
		return nil, fmt.Errorf("the schema is larger than %d KiB", maxBytes>>10)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	switch doc.(type) {
	case map[string]any, bool:
	default:
		return nil, fmt.Errorf("a schema is an object, got %.40s", raw)
	}
	if _, err := compile(doc, nil); err != nil { // as the standard says, with no words of ours
		return nil, err
	}
	first, err := compile(doc, &compiled{})
	if err != nil {
		return nil, err
	}
	c := &Schema{}
	c.pool.New = func() any { // a validation has a schema for itself, whose steps are counted
		s, err := compile(doc, &compiled{})
		if err != nil {
			return nil // it was compiled before
		}
		return s
	}
	c.pool.Put(first)
	return c, nil
}

// compile compiles a schema into out, which then counts; nil for one that does not.
func compile(doc any, out *compiled) (*compiled, error) {
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(func(s string) (jsonschema.Regexp, error) { return regex.Compile(s) })
	if out != nil {
		c.RegisterVocabulary(&jsonschema.Vocabulary{URL: "steps:", Compile: func(_ *jsonschema.CompilerContext, part map[string]any) (jsonschema.SchemaExt, error) {
			s := step{of: out, n: 1}
			for _, key := range []string{"allOf", "anyOf", "oneOf", "prefixItems"} {
				list, _ := part[key].([]any)
				s.n += len(list)
			}
			enum, _ := part["enum"].([]any)
			out.words = max(out.words, len(enum))
			return s, nil
		}})
		c.AssertVocabs()
	}
	if err := c.AddResource("schema.json", doc); err != nil {
		return nil, err
	}
	s, err := c.Compile("schema.json")
	var invalid *jsonschema.SchemaValidationError
	if errors.As(err, &invalid) {
		var misfit *jsonschema.ValidationError
		if errors.As(invalid.Err, &misfit) {
			return nil, fmt.Errorf("not a JSON Schema: %w", newMisfit(misfit))
		}
		return nil, fmt.Errorf("not a JSON Schema: %w", invalid.Err)
	}
	if out != nil {
		out.schema = s
	}
	return out, err
}

// step is in every part of a schema, and is called whenever a value was held
// against it.
type step struct {
	of *compiled
	n  int // what it counts for
}

// Validate implements jsonschema.SchemaExt.
func (s step) Validate(*jsonschema.ValidatorContext, any) {
	if s.of.steps += s.n; s.of.steps > maxSteps {
		panic(ErrWork) // recovered by Check: the library has no other way out
	}
}

// Check holds v against the schema. The error is a *MisfitError where it does not
// fit, and ErrWork where that would take too long to say.
func (c *Schema) Check(v any) (err error) {
	s := c.pool.Get().(*compiled)
	s.steps = 0
	defer c.pool.Put(s)
	if s.words > 100 && s.words*values(v) > 100*maxSteps {
		return ErrWork
	}
	defer func() {
		if r := recover(); r != nil {
			if r != any(ErrWork) {
				panic(r)
			}
			err = ErrWork
		}
	}()
	var misfit *jsonschema.ValidationError
	if err := s.schema.Validate(v); errors.As(err, &misfit) {
		return newMisfit(misfit)
	} else if err != nil {
		return err
	}
	return nil
}

// values is how many there are in v.
func values(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			n += values(e)
		}
	case map[string]any:
		for _, e := range v {
			n += values(e)
		}
	}
	return n
}

// MisfitError says in one line what does not fit a schema, the first few places.
type MisfitError struct{ msg string }

func (e *MisfitError) Error() string { return e.msg }

const toldMisfits = 5

func newMisfit(e *jsonschema.ValidationError) *MisfitError {
	var all []string
	more := 0
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		for _, c := range e.Causes {
			walk(c)
		}
		switch {
		case len(e.Causes) > 0:
		case len(all) == toldMisfits:
			more++
		default:
			at := "the whole"
			if len(e.InstanceLocation) > 0 {
				at = "/" + strings.Join(e.InstanceLocation, "/")
			}
			all = append(all, at+": "+e.ErrorKind.LocalizedString(english))
		}
	}
	walk(e)
	if more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return &MisfitError{strings.Join(all, "; ")}
}

var english = message.NewPrinter(language.English)

// JSON is the JSON of a schema given as a value or as text.
func JSON(schema any) (json.RawMessage, error) {
	s, ok := schema.(string)
	if !ok {
		return json.Marshal(schema)
	}
	raw, err := yaml.YAMLToJSON([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("neither JSON nor YAML: %w", err)
	}
	return bytes.TrimSpace(raw), nil
}

// noLoader refuses to read schemas from elsewhere.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("cannot read %s: a schema must stand on its own: %w", url, fs.ErrPermission)
}
