package spec

import (
	"fmt"
	"strconv"
)

// Until says at how many kept tasks a run ends.
type Until struct {
	Kept int64  `yaml:"kept" required:"true" free:"true" doc:"The run ends once so many tasks are done: exactly. A larger number goes on."`
	Per  string `yaml:"per" doc:"Expression over item: so many of each of its values, 10,000 values at most. Rows of a value that has them are not fed."`
	Most int    `yaml:"most" free:"true" doc:"With trials: until, how often a row comes at most." default:"10"`
}

// Trials is how many tasks are made of a row: a number, or until.
type Trials int

// TrialsUntil has rows come again, as new trials, until the run has what Until says.
const TrialsUntil Trials = -1

// UnmarshalText reads a number or until.
func (t *Trials) UnmarshalText(text []byte) error {
	if string(text) == "until" {
		*t = TrialsUntil
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return fmt.Errorf("got %q, want 1 or more, or until", text)
	}
	*t = Trials(n)
	if n < 0 { // what no number may mean
		*t = 0
	}
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (t Trials) MarshalText() ([]byte, error) {
	if t == TrialsUntil {
		return []byte("until"), nil
	}
	return strconv.AppendInt(nil, int64(t), 10), nil
}

// MostTrials is how many tasks are made of a row at most.
func (r *Run) MostTrials() int {
	if r.Trials != TrialsUntil {
		return max(1, int(r.Trials))
	}
	if r.Until == nil {
		return 1
	}
	return max(1, r.Until.Most)
}
