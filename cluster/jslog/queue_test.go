package jslog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"matrix"
	"matrix/cluster/jslog"
	"matrix/local"
	"matrix/matrixtest"
)

// shard is a queue over a log, which it closes.
type shard struct {
	*local.Queue
	log *jslog.Log
	nc  *nats.Conn
}

func (s shard) Close() error {
	err := errors.Join(s.Queue.Close(), s.log.Close())
	s.nc.Close()
	return err
}

// queue opens a queue over the log of its folder.
func (o *opener) queue(t testing.TB, dir string, q local.Options) (shard, error) {
	return o.queueOver(t, dir, dir, q)
}

// queueOver opens a queue in a folder over the log of another one.
func (o *opener) queueOver(t testing.TB, log, dir string, q local.Options) (shard, error) {
	nc := o.connect(t, 0)
	l := o.openOver(t, nc, log)
	q.Log = l
	queue, err := local.Open(dir, q)
	if err != nil {
		l.Close()
		nc.Close()
		return shard{}, err
	}
	return shard{queue, l, nc}, nil
}

// A queue over a stream keeps all promises of one over the disk, whatever the size of
// a message, and however often its log is swept.
func TestQueue(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		servers int
		sync    bool
		payload int32
		o       local.Options
	}{
		{"one server", 1, full(), 1 << 20, local.Options{Memory: true}},
		{"one server, swept all the time, in pieces, on disk", 1, false, 8 << 10, local.Options{LogSlack: 1}},
		{"three servers", 3, true, 1 << 20, local.Options{Memory: true, LogSlack: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.servers > 1 && !full() {
				t.Skip("MATRIX_CLUSTER=full runs it: some minutes")
			}
			o := &opener{startWith(t, c.servers, c.payload, c.sync), c.servers, 200 * time.Millisecond}
			matrixtest.Queue(t, true, func(dir string) (matrixtest.Store, error) { return o.queue(t, dir, c.o) })
		})
	}
}

// A record larger than a message goes in pieces, and what was settled stays so however
// often its keys were carried: whoever opens the log next has it all.
func TestSweptQueueOpensAgain(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 8<<10), 1, 200 * time.Millisecond}
	dir := t.TempDir()
	q, err := o.queue(t, dir, local.Options{Memory: true, LogSlack: 1})
	if err != nil {
		t.Fatal(err)
	}
	nc := o.connect(t, 0)
	ctx := t.Context()
	large := bytes.Repeat([]byte("0123456789abcdef"), 20<<10) // forty messages of 8 KiB
	if _, err := q.Seed(ctx, []matrix.Seed{{Task: "large", Role: "keep", Record: large}}, nil); err != nil {
		t.Fatal(err)
	}
	const tasks, record = 40, 30 << 10
	var most uint64
	for i := range tasks {
		if _, err := q.Seed(ctx, []matrix.Seed{{Task: fmt.Sprint(i), Role: "a", Record: make([]byte, record)}}, nil); err != nil {
			t.Fatal(err)
		}
		ts, err := q.Take(ctx, "a", 1, nil)
		if err != nil || len(ts) != 1 {
			t.Fatalf("take: got %d, %v", len(ts), err)
		}
		if err := ts[0].Commit(matrix.Step{Role: "end", Record: make([]byte, record)}, nil); err != nil {
			t.Fatal(err)
		}
		if err := q.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			ended, stop := context.WithCancel(ctx)
			stop()
			if err := q.Collect(matrix.WithStopping(ctx, ended), "end", 10, func(_ context.Context, ms []*matrix.Message) (matrix.Settlement, error) {
				return matrix.Settlement{Fates: slices.Repeat([]matrix.Fate{{Status: matrix.Done}}, len(ms))}, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		first, last := firstAndLast(t, nc, streamName(dir))
		most = max(most, last-first)
	}
	first, _ := firstAndLast(t, nc, streamName(dir))
	t.Logf("the log begins at %d and had at most %d messages", first, most)
	if most > 300 || first < 200 { // it would have 400
		t.Errorf("the log begins at %d and had at most %d messages", first, most)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if q, err = o.queue(t, dir, local.Options{Memory: true, Existing: true}); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if c := q.Counts(); c.Live != 1 || c.Waiting["keep"] != 1 {
		t.Errorf("opened again it has %+v, want the large task alone", c)
	}
	ids := slices.Collect(func(yield func(string) bool) {
		for i := range tasks {
			yield(fmt.Sprint(i))
		}
	})
	fates, err := q.Lookup(ctx, ids...)
	for i, f := range fates {
		if f.Status != matrix.Done {
			t.Errorf("task %d: got %+v, want it done", i, f)
		}
	}
	m, ok, err2 := q.Peek(ctx, "large")
	if err != nil || err2 != nil || !ok {
		t.Fatalf("lookup and peek: got %v, %v, %v", err, ok, err2)
	}
	if log, err := m.Log(ctx, 0); err != nil || len(log) != 1 || !bytes.Equal(log[0], large) {
		t.Errorf("the large record: got %d records, %v", len(log), err)
	}
}

// A queue is taken over while its owner goes on and trims what its successor reads:
// that one has in the end what the former owner was told of.
func TestTakenOverWhileTrimmed(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 16<<10), 1, 200 * time.Millisecond}
	options := local.Options{Memory: true, LogSlack: 1}
	q, err := o.queue(t, "x", options)
	if err != nil {
		t.Fatal(err)
	}
	told := 0 // tasks
	for round := range 6 {
		stopped := make(chan struct{})
		began := make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				if _, err := q.Seed(t.Context(), []matrix.Seed{{Task: fmt.Sprint(round, "/", i), Role: "a", Record: make([]byte, 3000)}}, map[string][]byte{"m": nil}); err != nil {
					if !errors.Is(err, local.ErrFenced) {
						t.Error(err)
					}
					return
				}
				if told++; i == 20 {
					close(began)
				}
			}
		}()
		<-began
		next, err := o.queueOver(t, "x", fmt.Sprint(round), options)
		if err != nil {
			t.Fatal(err)
		}
		<-stopped
		if live := next.Counts().Live; live != told && live != told+1 { // the last one's answer was cut off
			t.Errorf("round %d: the next owner has %d tasks, and the one before was told of %d", round, live, told)
		}
		told = next.Counts().Live
		if err := q.Close(); !errors.Is(err, local.ErrFenced) {
			t.Errorf("close of the former owner: got %v, want %v", err, local.ErrFenced)
		}
		q = next
	}
	if first, _ := firstAndLast(t, o.connect(t, 0), "x"); first < 100 {
		t.Errorf("the log begins at %d: it was hardly trimmed", first)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}
