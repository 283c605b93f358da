package run

import (
	"context"
	"hash/maphash"
	"sync"

	"matrix"
)

// cacheBytes is how much of the tasks that wait is kept in memory, about.
const cacheBytes = 256 << 20

// cache holds tasks between two steps, so that the next one need not read them
// back from their logs. What it holds of a task is valid only where the newest
// record is the one that it was made of: a task may have been taken on elsewhere
// meanwhile. A task is in one hand at a time, so that who takes one out may change it.
type cache struct {
	most int // bytes
	seed maphash.Seed

	mu    sync.Mutex
	tasks map[uint64]*kept // by the hash of the id: of two with the same the later one stays
	bytes int
}

func newCache(most int) *cache {
	return &cache{most: most, seed: maphash.MakeSeed(), tasks: map[uint64]*kept{}}
}

// kept is a task as its newest record left it.
type kept struct {
	key  string // that the queue has it by
	t    *matrix.Task
	size int    // bytes in memory, about
	hop  int    // of the newest record
	sum  uint32 // of the newest record
}

// size estimates what a task costs in memory with one more record: its text,
// and about as much again for what is parsed of it.
func size(before int, record []byte) int { return before + 2*len(record) + 256 }

// put keeps a task for its next step; for that another may have to go.
func (c *cache) put(k *kept) {
	h := maphash.String(c.seed, k.key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.tasks[h]; old != nil {
		c.bytes -= old.size
	}
	c.bytes += k.size
	c.tasks[h] = k
	if c.bytes <= c.most {
		return
	}
	for h, other := range c.tasks { // in no order
		c.bytes -= other.size
		delete(c.tasks, h)
		if c.bytes <= c.most {
			return
		}
	}
}

// take takes out the task that a message is of. ok is false where it is not
// there, or is not what the message says.
func (c *cache) take(m *matrix.Message) (k *kept, ok bool) {
	h := maphash.String(c.seed, m.Task)
	c.mu.Lock()
	k, ok = c.tasks[h]
	if ok {
		c.bytes -= k.size
		delete(c.tasks, h)
	}
	c.mu.Unlock()
	return k, ok && k.key == m.Task && k.hop == m.Hop && k.sum == m.Sum
}

// load takes the task of a message out of the cache, or reads it.
func (c *cache) load(ctx context.Context, m *matrix.Message) (*kept, error) {
	if k, ok := c.take(m); ok {
		return k, nil
	}
	log, err := m.Log(ctx, 0)
	if err != nil {
		return nil, err
	}
	k := &kept{key: m.Task, hop: m.Hop, sum: m.Sum}
	for _, b := range log {
		k.size = size(k.size, b)
	}
	k.t, err = Decode(m.Task, log)
	return k, err
}
