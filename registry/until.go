package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"matrix"
	"matrix/lang"
	"matrix/spec"
)

// Per says of which kind a row is by until.per of a config: the value of the expression, as
// JSON where it is no text. It is nil where there is none. An error is a
// *lang.FieldError.
func Per(c *spec.Run) (func(item matrix.Value) (string, error), error) {
	_, per, err := compilePer(c)
	return per, err
}

func compilePer(c *spec.Run) (*lang.Expr, func(item matrix.Value) (string, error), error) {
	if c.Until == nil || strings.TrimSpace(c.Until.Per) == "" {
		return nil, nil, nil
	}
	e, err := lang.CompileExpr(c.Until.Per, lang.Params(c.Params))
	if err != nil {
		return nil, nil, &lang.FieldError{Field: "until.per", Err: err}
	}
	return e, func(item matrix.Value) (string, error) {
		switch x, err := e.Eval(&matrix.Task{Item: item}); x := x.(type) {
		case string:
			return x, err
		case nil:
			if err == nil {
				err = errors.New("the expression gives null, want what tells kinds of rows")
			}
			return "", err
		default:
			b, fault := json.Marshal(x)
			return string(b), errors.Join(err, fault)
		}
	}, nil
}

// until checks at how many kept tasks the run ends.
func (b *builder) until() {
	u := b.run.Until
	again := b.run.Trials == spec.TrialsUntil
	if u == nil {
		if again {
			b.at(b.root, "trials", 0, 0, "is until, and until is missing: say how many tasks are to be kept, as until: {kept: 200}", "")
		}
		return
	}
	wrong := func(key, format string, args ...any) {
		b.at(b.root, "until."+key, 0, 0, fmt.Sprintf(format, args...), "")
	}
	if u.Kept < 1 {
		wrong("kept", "got %d, want 1 or more", u.Kept)
	}
	if b.run.Shards > 1 {
		wrong("kept", "needs one shard, and shards is %d: tasks are counted in the order in which they end", b.run.Shards)
	}
	if u.Most < 1 || u.Most > maxTrials {
		wrong("most", "got %d, want 1 to 1,000,000", u.Most)
	}
	if again && b.run.Dataset.Follow {
		b.at(b.root, "trials", 0, 0, "is until, and dataset.follow waits for more rows: rows come again once all have come", "")
	}
	e, per, err := compilePer(b.run)
	if err != nil {
		b.add(b.root, "", err)
	}
	b.ofRow("until.per", e, &b.reads)
	if e != nil && len(e.TurnRefs()) > 0 {
		wrong("per", "is asked of a row, which has no turns yet: it may read item and params")
	}
	b.plan.Per = per
}
