package run

import (
	"context"
	"encoding/json"
	"fmt"

	"matrix"
)

// Output reads an output back: f gets each line with its place, in order.
type Output func(f func(place matrix.Place, line []byte) error) error

// Audit is what a Verify found.
type Audit struct {
	Tasks    int64    `json:"tasks"` // rows times trials
	Done     int64    `json:"done"`
	Failed   int64    `json:"failed"`
	Owed     int64    `json:"owed"`
	Tail     int64    `json:"tail"` // lines that a crash left past the ledger's end: the next run cuts them off
	OK       bool     `json:"ok"`
	Culprits []string `json:"culprits"` // the first 100
	Faults   int64    `json:"faults"`   // all of them
}

func (a *Audit) blame(format string, args ...any) {
	a.Faults++
	if len(a.Culprits) < 100 {
		a.Culprits = append(a.Culprits, fmt.Sprintf(format, args...))
	}
}

// Verify reads the dataset, the ledger and the outputs, and proves that each
// task of each row is exactly one of done, failed and owed, and that each done
// or failed one stands in its output exactly once, where the ledger says. What
// it needs in memory does not grow with the run. Nothing may write meanwhile.
func Verify(ctx context.Context, source matrix.Source, trials int, ledger matrix.Ledger, done, failed Output) (*Audit, error) {
	a := &Audit{Culprits: []string{}}
	var fed feedMark
	if b, err := ledger.Mark("feed"); err != nil {
		return nil, err
	} else if b != nil {
		if err := json.Unmarshal(b, &fed); err != nil {
			return nil, fmt.Errorf("mark feed: %w", err)
		}
	}
	known, err := a.rows(ctx, source, trials, ledger, fed)
	if err != nil {
		return nil, err
	}
	if known != fed.Tasks {
		a.blame("the feeder counted %d tasks, and %d of the dataset's are in the ledger", fed.Tasks, known)
	}
	var entries int64
	err = ledger.Walk(func(id string, f matrix.Fate) error {
		entries++
		if f.Row >= fed.Next.Row && !(f.Row == fed.Next.Row && fed.Trial > 0) {
			a.blame("%s: the ledger has it at row %d, which was never fed", id, f.Row)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if entries != known {
		a.blame("the ledger has %d tasks, and %d of them belong to rows of the dataset", entries, known)
	}
	for _, o := range []struct {
		name   string
		read   Output
		status matrix.Status
		want   int64
	}{{"data", done, matrix.Done, a.Done}, {"failed", failed, matrix.Failed, a.Failed}} {
		if err := a.output(ledger, o.name, o.read, o.status, o.want); err != nil {
			return nil, err
		}
	}
	a.OK = a.Faults == 0
	return a, nil
}

// rows counts every task of the dataset under its fate, and those that the
// ledger knows.
func (a *Audit) rows(ctx context.Context, source matrix.Source, trials int, ledger matrix.Ledger, fed feedMark) (known int64, err error) {
	err = source.Rows(ctx, matrix.Position{}, func(row matrix.Row) error {
		id, ok, err := rowTask(ledger, row)
		if err != nil {
			return err
		}
		for trial := range trials {
			a.Tasks++
			var fate matrix.Fate
			found := false
			if ok {
				if fate, found, err = ledger.Lookup(TaskID(id, trial)); err != nil {
					return err
				}
			}
			if found {
				known++
			}
			wasFed := row.Number < fed.Next.Row || row.Number == fed.Next.Row && trial < fed.Trial
			switch {
			case !found && wasFed:
				a.blame("%s (%s): was fed, and the ledger does not know it: lost", TaskID(id, trial), row.Address)
			case !found || fate.Status == matrix.Owed:
				a.Owed++
			case fate.Status == matrix.Done:
				a.Done++
			default:
				a.Failed++
			}
		}
		return nil
	})
	return known, err
}

// rowTask finds under which id the feeder fed the row: see feeder.identify.
func rowTask(ledger matrix.Ledger, row matrix.Row) (id string, known bool, err error) {
	for id := range names(row) {
		fate, ok, err := ledger.Lookup(id)
		switch {
		case err != nil:
			return id, false, err
		case ok && fate.Row == row.Number:
			return id, true, nil
		case !ok && id != row.ID:
			return id, false, nil
		}
	}
	panic("names has no end")
}

// output checks that each line of an output is where the ledger says, and that
// there are as many as the ledger says. A task that stood there twice would be
// at a second place, which the ledger does not name.
//
// After the last settled line there may be a tail that a crash left between
// output and ledger: its tasks are owed, and the next run cuts it off.
func (a *Audit) output(ledger matrix.Ledger, name string, read Output, status matrix.Status, want int64) error {
	var settled int64
	tail := func() bool { return settled == want && a.Owed > 0 }
	err := read(func(p matrix.Place, line []byte) error {
		at := fmt.Sprintf("%s part %d line %d", name, p.Part, p.Line+1)
		var t struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(line, &t); err != nil {
			if tail() {
				a.Tail++
			} else {
				a.blame("%s: not a task: %v", at, err)
			}
			return nil
		}
		f, ok, err := ledger.Lookup(t.ID)
		switch {
		case err != nil:
			return err
		case !ok:
			a.blame("%s: %s is not in the ledger", at, t.ID)
		case f.Status == matrix.Owed && tail():
			a.Tail++
		case f.Status != status:
			a.blame("%s: the ledger says that %s is %s", at, t.ID, f.Status)
		case f.Part != p.Part || f.Line != p.Line:
			a.blame("%s: %s stands at part %d line %d by the ledger: doubled", at, t.ID, f.Part, f.Line+1)
		default:
			settled++
		}
		return nil
	})
	if err != nil {
		if tail() {
			a.Tail++
		} else {
			a.blame("%s: %v", name, err)
		}
	}
	if settled != want {
		a.blame("%s has %d lines where the ledger says, and the ledger has %d tasks that are %s", name, settled, want, status)
	}
	return nil
}
