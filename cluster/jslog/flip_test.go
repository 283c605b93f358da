package jslog_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"matrix/local"
)

// flip changes a byte of what a server that is down has of a stream, at a part of its length.
func (s *servers) flip(t *testing.T, i int, stream string, part float64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.options[i].StoreDir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no blocks of %s: %v, %v", stream, files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b[int(part*float64(len(b)))] ^= 0x10
	if err := os.WriteFile(files[0], b, 0o666); err != nil {
		t.Fatal(err)
	}
}

func (s *servers) stop(i int) {
	s.all[i].Shutdown()
	s.all[i].WaitForShutdown()
}

// A byte that changes on one server of three costs nothing.
func TestFlippedOnOneOfThree(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 3, 64<<10), 3, 100 * time.Millisecond}
	nc := o.connect(t, 0)
	for round, part := range []float64{0.3, 0.95} {
		name := fmt.Sprint("x", round)
		l := o.open(t, name, nil)
		read(t, l)
		var want []string
		for i := range 60 {
			want = append(want, fmt.Sprintf("%0200d", i))
		}
		add(t, l, want...)
		l.Close()
		until(t, "all have it", func() bool {
			cluster, _ := api(t, nc, "STREAM.INFO."+name, "")["cluster"].(map[string]any)
			replicas, _ := cluster["replicas"].([]any)
			for _, r := range replicas {
				if r, _ := r.(map[string]any); r["current"] != true || r["offline"] == true || r["lag"] != nil {
					return false
				}
			}
			return len(replicas) == 2
		})
		follower := (o.leader(t, name) + 1) % 3
		o.stop(follower)
		o.flip(t, follower, name, part)
		o.run(t, follower)
		if !o.all[follower].ReadyForConnections(time.Minute) {
			t.Fatal("the server does not come up")
		}
		for i := range 3 {
			l := o.openOver(t, o.connect(t, i), name)
			if got := read(t, l); !slices.Equal(got, want) {
				t.Errorf("flipped at %v, over server %d the log has %d groups of %d", part, i, len(got), len(want))
			}
			l.Close()
		}
	}
}

// A byte that changes on the only server is damage, and not a log that ends there.
func TestFlippedOnOne(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, 5 * time.Millisecond}
	for round, part := range []float64{0.05, 0.5, 0.99} {
		name := fmt.Sprint("x", round)
		l := o.open(t, name, nil)
		read(t, l)
		var want []string
		for i := range 60 {
			want = append(want, fmt.Sprintf("%0200d", i))
		}
		add(t, l, want...)
		l.Close()
		o.stop(0)
		o.flip(t, 0, name, part)
		o.run(t, 0)
		if !o.all[0].ReadyForConnections(time.Minute) {
			t.Fatal("the server does not come up")
		}
		next := o.open(t, name, nil)
		var got []string
		err := next.Replay(func(group []byte) error {
			if group == nil {
				got = nil
			} else {
				got = append(got, string(group))
			}
			return nil
		})
		if !errors.As(err, new(*local.DamagedError)) && !slices.Equal(got, want) {
			t.Errorf("flipped at %v: got %d groups, %v; want damage", part, len(got), err)
		}
		next.Close()
	}
}
