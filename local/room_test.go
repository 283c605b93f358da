package local

import (
	"errors"
	"testing"

	"matrix"
)

// A handler that waits for room is woken when the store fails, whenever that is.
func TestRoomWakesOnFailure(t *testing.T) {
	for range 3000 {
		q := newIdle()
		q.commit.bytes = maxWait + 1 // full, and nobody writes
		woken := make(chan struct{})
		go func() {
			q.commit.hop(&entry{role: q.role("a")}, matrix.Step{Role: "a"}, nil, 0, 0)
			close(woken)
		}()
		q.fail(errors.New("disk gone"))
		<-woken
	}
}

// newIdle makes a queue without a store, whose committer does not run.
func newIdle() *Queue {
	q := &Queue{roles: map[string]*role{}, closed: make(chan struct{}), failed: make(chan struct{}), done: make(chan struct{})}
	q.commit = newCommitter(q)
	q.commit.applying = true
	return q
}
