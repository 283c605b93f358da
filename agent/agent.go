package agent

import (
	"errors"
	"fmt"
	"hash/fnv"

	"matrix/lang"
)

// Mention says what the value at a key of a config refers to, so that it can be
// checked against the rows and the roles before a run.
type Mention struct {
	Key    string      // in the agent's section: "prompt"
	Source lang.Source // what stands there; nil for a list of roles
	Roles  []string    // named literally
}

// mention is that of what stands at a key.
func mention(key string, s lang.Source) Mention {
	return Mention{Key: key, Source: s, Roles: s.Roles()}
}

// Mentioner is an agent that says what its config refers to.
type Mentioner interface {
	Mentions() []Mention
}

// fieldErrors gathers what is wrong with a config.
type fieldErrors []error

func (f *fieldErrors) add(field string, err error) {
	if err != nil {
		*f = append(*f, &lang.FieldError{Field: field, Err: err})
	}
}

func (f *fieldErrors) addf(field, format string, args ...any) {
	f.add(field, fmt.Errorf(format, args...))
}

func (f fieldErrors) err() error { return errors.Join(f...) }

// derive makes a seed of 31 bits from the task's and what names the call: the
// same for the same call in every run, and different for different ones.
func derive(seed int64, role string, nth, reask int) int64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%s/%d/%d", seed, role, nth, reask)
	x := h.Sum64()
	x ^= x >> 33 // FNV mixes its high bits badly
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return int64(x & (1<<31 - 1))
}
