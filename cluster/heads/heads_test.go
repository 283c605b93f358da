package heads_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"matrix"
	"matrix/cluster/heads"
	"matrix/cluster/natsnet"
	"matrix/local"
	"matrix/matrixtest"
)

// patience is how long a test waits for what is to happen.
const patience = 3 * time.Minute

// options are those of three heads at loopback.
func options(t testing.TB) (all []heads.Options) {
	t.Helper()
	secrets, err := natsnet.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ports := matrixtest.Ports(t, 3)
	var peers []string
	for _, p := range ports {
		peers = append(peers, fmt.Sprint("127.0.0.1:", p))
	}
	for i, p := range ports {
		all = append(all, heads.Options{Secrets: secrets, Store: filepath.Join(dir, fmt.Sprint(i)), Host: "127.0.0.1", Port: p, Peers: peers})
	}
	return all
}

func open(t testing.TB, o heads.Options) *heads.Heads {
	t.Helper()
	h, err := heads.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func lead(t testing.TB, h *heads.Heads) *heads.Lead {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := h.Lead(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// leads has a head wait for the lead.
func leads(t testing.TB, h *heads.Heads) <-chan error {
	c := make(chan error, 1)
	go func() {
		_, err := h.Lead(t.Context(), nil)
		c <- err
	}()
	return c
}

func shard(t testing.TB, l *heads.Lead, k int) *local.Queue {
	t.Helper()
	log, err := l.Log(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	q, err := local.Open(l.View(k), local.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func seed(t testing.TB, q *local.Queue, id string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := q.Seed(ctx, []matrix.Seed{{Task: id, Role: "a", Record: []byte("record of " + id)}}, nil)
	return err
}

// A store is one head's: two of them in one would write into each other's files.
func TestStoreOfAnotherHead(t *testing.T) {
	o := options(t)
	open(t, o[0]).Close()
	o[1].Store = o[0].Store
	h, err := heads.Open(t.Context(), o[1])
	if !errors.As(err, new(*heads.StoreError)) || !strings.Contains(err.Error(), "that of the head "+o[0].Peers[0]) {
		t.Errorf("got %v, %v, want that the store is another head's", h, err)
	}
	open(t, o[0]) // its own again
}

// Of three heads one leads. When it dies another one does, and has all that was
// committed; when it is given back, at once; and when the first comes back it has it, too.
func TestThreeHeads(t *testing.T) {
	t.Parallel()
	o := options(t)
	var all []*heads.Heads
	for i := range o {
		all = append(all, open(t, o[i]))
	}
	l := lead(t, all[0])
	q := shard(t, l, 0)
	if err := seed(t, q, "one"); err != nil {
		t.Fatal(err)
	}
	if !l.Sure() {
		t.Error("who leads is not sure")
	}
	died := time.Now()
	all[0].Close()
	second := lead(t, all[1])
	if l.Sure() {
		t.Error("who has died is sure that it leads")
	}
	if second.Epoch() <= l.Epoch() {
		t.Errorf("epochs: got %d after %d", second.Epoch(), l.Epoch())
	}
	next := shard(t, second, 0)
	if err := seed(t, next, "two"); err != nil {
		t.Fatal(err)
	}
	t.Logf("from the leader's end to the first commit of the next: %v", time.Since(died))
	if err := q.Close(); err == nil {
		t.Log("the first one had nothing under way")
	}
	if n := next.Counts().Live; n != 2 {
		t.Errorf("the second leader has %d tasks, want 2", n)
	}
	all[0] = open(t, o[0])
	third := leads(t, all[2])
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-third:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("nobody leads")
	}
}

// A head that was taken for dead, and is not, commits nothing any more.
func TestFenced(t *testing.T) {
	t.Parallel()
	o := options(t)
	var all []*heads.Heads
	for i := range o {
		all = append(all, open(t, o[i]))
	}
	l := lead(t, all[0])
	q := shard(t, l, 0)
	if err := seed(t, q, "one"); err != nil {
		t.Fatal(err)
	}
	// The lease is given away, and the process goes on as one does that was stopped meanwhile.
	if err := heads.GiveBack(l); err != nil {
		t.Fatal(err)
	}
	second := lead(t, all[1])
	if err := seed(t, q, "two"); err != nil {
		t.Errorf("before the logs were opened by another: got %v", err)
	}
	now := shard(t, second, 0)
	if err := seed(t, q, "three"); !errors.Is(err, local.ErrFenced) {
		t.Errorf("after it: got %v, want %v", err, local.ErrFenced)
	}
	if n := now.Counts().Live; n != 2 {
		t.Errorf("the second leader has %d tasks, want 2", n)
	}
	if err := now.Close(); err != nil {
		t.Error(err)
	}
}

// The end of a run reaches all heads, and they leave nothing behind.
func TestEnd(t *testing.T) {
	t.Parallel()
	o := options(t)
	var all []*heads.Heads
	for i := range o {
		all = append(all, open(t, o[i]))
	}
	l := lead(t, all[0])
	if err := seed(t, shard(t, l, 0), "one"); err != nil {
		t.Fatal(err)
	}
	second, third := leads(t, all[1]), leads(t, all[2])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.End(ctx, 4, "Stopped."); err != nil {
		t.Fatal(err)
	}
	for _, c := range []<-chan error{second, third} {
		var e *heads.EndedError
		if err := <-c; !errors.As(err, &e) || e.Code != 4 || e.Says != "Stopped." || e.By != all[0].Name() {
			t.Errorf("got %v, want how the run has ended", err)
		}
	}
	for i, h := range all {
		if err := h.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(o[i].Store); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("head %d has left %s: %v", i, o[i].Store, err)
		}
	}
}
