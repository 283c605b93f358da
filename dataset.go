package matrix

import "context"

// Row is one record of a dataset, or the reason why it could not be read.
type Row struct {
	ID      string // from the data; empty: the address stands for it
	Address string // "file:line", lines from 1
	Number  int64  // position in the dataset, from 0, after where, skip and limit
	Item    Value
	Err     error    // the row cannot be fed: it fails alone. Of one that is malformed, Item is the text, shortened, as a JSON string
	Next    Position // where reading goes on after this row

	Priority Priority // of its tasks

	// Begun is a task of an earlier run that those of the row go on with: they have its
	// turns, and Role acts next, whoever the router begins with. nil: they begin anew.
	Begun *Task
	Role  string
}

// Position is a place between two rows of a dataset.
type Position struct {
	File   int   `json:"file"`   // index in the list of files
	Offset int64 `json:"offset"` // bytes of the file, uncompressed
	Line   int64 `json:"line"`   // lines (or records) of the file before it
	Row    int64 `json:"row"`    // rows of the dataset before it
}

// Source reads a dataset lazily.
type Source interface {
	// Rows calls f for each row from a position on, in order, until f returns
	// an error, which it returns. An error of its own means that the dataset
	// cannot be read on from there.
	Rows(ctx context.Context, from Position, f func(Row) error) error

	// Count says how many rows there are, by the cheapest way that is exact; -1
	// where more may come.
	Count(ctx context.Context) (int64, error)

	// Fingerprint tells one state of the dataset from another in a line a
	// person can read (files, sizes, content hashes): a resumed run compares it.
	Fingerprint() (string, error)
}

// Extender is a Source that knows what it was before rows were appended.
type Extender interface {
	Source

	// Extends reports whether the dataset is the one that had the fingerprint
	// was, with rows after it or without. An error says what is wrong with what was
	// appended.
	Extends(was string) (bool, error)
}

// Grower is a Source that rows are appended to while it is read, until it is
// closed. What it says holds for the rows that there are: Rows ends behind the last
// of them, and a Fingerprint that was taken before is that of a prefix, which Extends
// knows. So a run goes on over one that has grown, and nobody who only looks at the
// rows waits for more.
type Grower interface {
	Extender

	// More waits until there is a row at a position or behind it, or until the source
	// is closed and there is none: then it reports false. Rows that it has told of are
	// durable. An error is ctx's, or says that the dataset cannot be read on from there.
	More(ctx context.Context, from Position) (bool, error)
}

// Place is where a row stands in an output.
type Place struct {
	Part int // from 0; -1 of a row of which the output holds nothing
	Line int // from 0
}

// Sink writes finished tasks. It is used by one goroutine.
type Sink interface {
	// Write appends the tasks in order and makes them durable before it
	// returns. The checkpoint says how far the output then goes: after a crash the
	// sink is opened with the checkpoint that the ledger holds, and cuts back to it.
	Write(ctx context.Context, tasks []*Task) (places []Place, checkpoint []byte, err error)
	Close() error
}

// Sealer is a Sink that does something with what it wrote once that is certain.
type Sealer interface {
	Sink

	// Committed says that the checkpoint that the last Write returned is committed. What
	// goes wrong here the next Write returns.
	Committed()
}

// Reviser is a Sink that can go through its rows again, to take some of them
// back. Only what Write returns, and what Revise does, is a checkpoint to commit.
type Reviser interface {
	Sink

	// Revise begins to go through all rows that have been written so far; where
	// that is under way, it then goes through those written since, too. They
	// stand where they stood until Next has read them.
	Revise() (checkpoint []byte, err error)

	// Next reads the rows that follow, in order: at most n of them, of about so
	// many bytes; none once it has gone through all. By the checkpoint of the Write
	// after it they are not part of the output any more: those that shall stay are
	// written again by that Write. Whoever calls Next has committed the last checkpoint.
	Next(n, bytes int) ([]*Task, error)
}
