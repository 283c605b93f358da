package matrix

import (
	"context"
	"hash/crc32"
	"time"
)

// Seed is a task on its way into a queue.
type Seed struct {
	Task     string // the task's id
	Row      int64  // position of its row in the dataset, from 0: the ledger keeps it
	Role     string // who acts first
	Priority int
	Record   []byte // the first record of its log
	Sum      uint32 // of the record, where it is known; 0 where it is to be taken
}

// Message is a task that waits for a role. Its state is a log of records: each
// hop adds one, a Settlement of others may, and none is ever rewritten.
type Message struct {
	Task     string // the task's id
	Role     string
	Priority int
	Hop      int // records in the log, less the seed's
	Attempt  int // attempts spent at this hop so far

	Queued  time.Duration // waited for a free consumer
	Delayed time.Duration // waited for retries to fall due

	Sum uint32 // of the newest record: what was made of a log with the same Hop and Sum is still good

	// Log reads the records from one on (0: the seed's), oldest first, until the
	// task is settled. They must not be changed. An error is ErrLost, or what ctx ended
	// with, or a *RetryError where it may pass; any other will not.
	Log func(ctx context.Context, from int) ([][]byte, error)
}

// Step is what a handler did: it replaces the message.
type Step struct {
	Role     string // who acts next
	Priority int    // larger goes first
	Record   []byte // what this hop adds to the log; the queue owns it from now on
	Sum      uint32 // of the record, where it is known; 0 where it is to be taken

	// Children are tasks that begin with the step, in the same queue: committed with
	// it, or neither. One already known is left alone, as in Queue.Seed. A task with
	// more of them than shall begin at once goes on step by step, each with a record
	// that says how far it has come.
	Children []Seed
}

// Sum is the checksum of a record: its CRC-32C.
func Sum(record []byte) uint32 { return crc32.Checksum(record, crc32.MakeTable(crc32.Castagnoli)) }

// Handler takes a message and returns what replaces it. A nil error commits
// the step and settles the message together, or neither. An error brings the
// message back: see errors.go. A *StopError also ends the Consume.
//
// ctx is that of the Consume. It also ends when the claim on the message is
// lost, with the cause ErrLost: when the queue fails or is closed, or when somebody
// else may take it. What the handler then returns may still be committed, or not.
type Handler func(ctx context.Context, m *Message) (Step, error)

// Settlement ends a batch of messages. Fates[i] belongs to the i-th message.
type Settlement struct {
	Fates       []Fate
	Checkpoints map[string][]byte

	// Appends are steps of other tasks of the queue, by id, without children: their
	// records are added to the logs behind all that was committed before. A step to no
	// role leaves the task where it waits, or in whose hands it is, whose Message
	// stays as it was and whose step comes behind. One to a role makes a task ready
	// for it that waits for another: in somebody's hands it cannot be made so, which
	// is an error. A task that is not live is left out.
	Appends map[string]Step

	Then func() // called once all of it is durable; may be nil
}

// Collector takes waiting messages and says how they ended. A nil error commits
// fates, checkpoints and appends together, or none; an error ends the Collect and leaves
// the messages waiting.
type Collector func(ctx context.Context, ms []*Message) (Settlement, error)

// Fate is what the ledger holds of a task.
type Fate struct {
	Status Status
	Row    int64 // position of the row in the dataset, from 0; a Collector need not set it
	Part   int   // the part file that holds it, from 0; -1 while pending, and of what no output holds
	Line   int   // its line in the part, from 0
}

// Taker is where Consume takes messages from: a Queue, or what stands for one in
// another process.
type Taker interface {
	// Take takes up to n messages for role, highest priority first, in order of
	// arrival within one. It does not wait. ready, unless it is nil, is called once,
	// as soon as there is more to take: before Take returns, where more waits
	// already. It must not block. The end of ctx withdraws it, and nothing else. See
	// Consume.
	Take(ctx context.Context, role string, n int, ready func()) ([]Taken, error)

	// Flush waits until all that was committed before it is durable and can be
	// taken. An error says that it never will be.
	Flush(ctx context.Context) error

	// Done is closed when the queue has failed or is being closed: nothing can be
	// taken any more. What is taken may still be committed while it is being closed,
	// which waits for that.
	Done() <-chan struct{}
}

// Queue keeps at most one live message per task and remembers every task that it
// ever held. Of those who take a message, one after the other where a claim is
// lost, one commits.
type Queue interface {
	Taker

	// Seed adds tasks and sets checkpoints. Checkpoints are never ahead of the tasks that they
	// speak of: a crash may leave tasks whose checkpoints are not set, not the reverse.
	// A task already known, live or settled, is left alone and not counted.
	Seed(ctx context.Context, seeds []Seed, checkpoints map[string][]byte) (added int, err error)

	// Revive makes failed tasks live again, notes where others that failed stand
	// now, and sets checkpoints: together or neither. A revived task begins a new log
	// with the seed's record, and keeps its row. A task that has not failed is left
	// alone and not counted.
	Revive(ctx context.Context, seeds []Seed, moved map[string]Place, checkpoints map[string][]byte) (revived int, err error)

	// Claim takes the message of a task, where it waits at that hop, also for a retry
	// to fall due: for what was done with it before its queue was opened anew. ok is
	// false where it does not wait there.
	Claim(task string, hop int) (t Taken, ok bool, err error)

	// Collect hands all messages for role that wait, at most max of them, to
	// the collector, one batch after the other, and settles them for good. It
	// blocks until Stopping(ctx) has ended and nothing waits any more (it does not wait
	// for retries to fall due then, but takes them, too), or ctx is done
	// (and returns nil), the queue fails, or the collector does. A role has one
	// Collect at a time.
	Collect(ctx context.Context, role string, max int, c Collector) error
}

// Counts says how many tasks are under way. It may be a second old.
type Counts struct {
	Live    int            // tasks that are pending
	Waiting map[string]int // messages by the role that they wait for, delayed ones included; no role at 0
}

// Ledger says what became of every task that a queue was seeded with.
type Ledger interface {
	// Lookup finds the fates of tasks, one for each id. Status is "" where the
	// queue never held it.
	Lookup(ctx context.Context, ids ...string) ([]Fate, error)

	// Peek reads a live task's message without taking it. ok is false when
	// there is none.
	Peek(ctx context.Context, id string) (m *Message, ok bool, err error)

	// Walk calls f for every task, in no order that anybody may rely on, until f
	// returns an error.
	Walk(ctx context.Context, f func(id string, fate Fate) error) error

	// Live calls f for every task that is pending, in no order that anybody may rely
	// on, until f returns an error. It reads no more of the ledger than these.
	Live(ctx context.Context, f func(id string) error) error

	// Checkpoint reads a small value that was set by a Seed, a Revive or a Settlement;
	// nil if it never was.
	Checkpoint(ctx context.Context, name string) ([]byte, error)

	// Counts counts the tasks that are under way.
	Counts() Counts
}
