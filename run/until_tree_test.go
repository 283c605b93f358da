package run_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"matrix"
	"matrix/run"
)

// Where tasks become others the goal is exact, too: broods that are half begun, and
// parents that wait, are dropped as surplus, and the ledger closes over them.
func TestUntilOfTrees(t *testing.T) {
	say := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: "so"}, nil
	})
	for _, then := range []string{"", "merge"} {
		cfg := run.Config{
			Source: numbered(40), Live: 12, Until: &run.Until{Kept: 25},
			Roles: map[string]matrix.Role{"split": {Agent: say}, "ask": {Agent: say}, "merge": {Agent: say}},
			Router: router(func(x *matrix.Task) matrix.Decision {
				switch last := x.Last(); {
				case last == nil && x.Parent == "":
					return matrix.To("split")
				case last != nil && last.Role == "split" && x.Parent == "":
					e := matrix.Expansion{As: "part", Role: "ask", Then: then}
					for range 9 {
						e.Items = append(e.Items, matrix.RawValue([]byte("1")))
					}
					return matrix.Expand(e)
				}
				return matrix.Finish(matrix.Value{})
			}),
		}
		b := newBed(t)
		for {
			_, err := b.until(cfg, 11, func(_ *run.Run, cancel func()) { cancel() })
			if err == nil {
				break
			}
			if !errors.Is(err, run.ErrStopped) {
				t.Fatal(err)
			}
			b.proven(cfg.Source, 1)
		}
		if a := b.proven(cfg.Source, 1); a.Done != 25 || a.Pending != 0 || a.Unused == 0 {
			t.Errorf("then %q: got %+v", then, a)
		}
	}
}

// Parents that wait for their children when the goal is met, of none of which they have been
// told, are dropped with these; so is one of which not all children have begun.
func TestUntilDropsWholeBroods(t *testing.T) {
	good := make(chan struct{}, 2)
	say := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: "so"}, nil
	})
	cfg := run.Config{
		Source: numbered(2), Live: 12, Until: &run.Until{Kept: 1},
		Roles: map[string]matrix.Role{"split": {Agent: say}, "merge": {Agent: say},
			"ask": {Agent: matrix.AgentFunc(func(ctx context.Context, x *matrix.Task) (matrix.Turn, error) {
				switch x.ID {
				case "r0/1":
					<-good
					<-good
					return matrix.Turn{Text: "so"}, nil
				case "r0/2":
					good <- struct{}{}
				case "r0/0/1":
					good <- struct{}{}
				}
				<-ctx.Done()
				return matrix.Turn{}, ctx.Err()
			})}},
		Router: router(func(x *matrix.Task) matrix.Decision {
			switch last := x.Last(); {
			case last == nil && x.Parent == "":
				return matrix.To("split")
			case last != nil && last.Role == "split" && x.ID == "r0":
				e := matrix.Expansion{As: "part", Role: "split", Then: "merge"}
				for range 3 {
					e.Items = append(e.Items, matrix.RawValue([]byte("1")))
				}
				return matrix.Expand(e)
			case last != nil && last.Role == "split" && x.ID == "r0/0":
				e := matrix.Expansion{As: "part", Role: "ask", Then: "merge"}
				for range 40 {
					e.Items = append(e.Items, matrix.RawValue([]byte("1")))
				}
				return matrix.Expand(e)
			case last != nil && last.Role == "split":
				return matrix.To("ask")
			}
			return matrix.Finish(matrix.Value{})
		}),
	}
	b := newBed(t)
	b.run(cfg)
	if a := b.proven(cfg.Source, 1); a.Done != 1 || a.Pending != 0 {
		t.Errorf("got %+v", a)
	}
}

// Until.Per tells kinds of rows. What these become may be of kinds that no row has, where it
// looks at what they have beside their row: they count for none, and none is wanted of them.
func TestUntilPerOfTrees(t *testing.T) {
	say := matrix.AgentFunc(func(context.Context, *matrix.Task) (matrix.Turn, error) {
		return matrix.Turn{Text: "so"}, nil
	})
	cfg := run.Config{
		Source: numbered(200), Live: 12,
		Until: &run.Until{Kept: 5, Per: func(item matrix.Value) (string, error) {
			x := item.Any().(map[string]any)
			if part, ok := x["part"]; ok {
				return fmt.Sprint("part of ", x["n"], part), nil
			}
			return fmt.Sprint(x["n"].(int) % 2), nil
		}},
		Roles: map[string]matrix.Role{"split": {Agent: say}, "ask": {Agent: say}, "merge": {Agent: say}},
		Router: router(func(x *matrix.Task) matrix.Decision {
			switch last := x.Last(); {
			case last == nil && x.Parent == "":
				return matrix.To("split")
			case last != nil && last.Role == "split":
				return matrix.Expand(matrix.Expansion{As: "part", Role: "ask", Then: "merge",
					Items: []matrix.Value{matrix.RawValue([]byte("1")), matrix.RawValue([]byte("2")), matrix.RawValue([]byte("3"))}})
			}
			return matrix.Finish(matrix.Value{})
		}),
	}
	b := newBed(t)
	for range 2 { // stopped meanwhile
		if _, err := b.until(cfg, 9, func(_ *run.Run, cancel func()) { cancel() }); !errors.Is(err, run.ErrStopped) {
			t.Fatal(err)
		}
		b.proven(cfg.Source, 1)
	}
	b.run(cfg)
	per := map[string]int{}
	for _, x := range b.tasks("data") {
		if x.Parent == "" {
			kind, _ := cfg.Until.Per(x.Item)
			per[kind]++
		}
	}
	if a := b.proven(cfg.Source, 1); len(per) != 2 || per["0"] != 5 || per["1"] != 5 || a.Pending != 0 || a.Unused == 0 {
		t.Errorf("got %v and %+v", per, a)
	}
}
