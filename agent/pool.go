package agent

import "context"

// Pool is what a config names under pools: sandboxes, or tools, that tasks hold while
// they live. One that has an Open method is opened before it is used.
type Pool interface {
	// Check reports what this machine lacks to keep what the config promises, and what
	// to do about it. Nothing else of the pool is used before.
	Check(ctx context.Context) error

	// Release gives back what a task holds, by the task's ID. A task that holds nothing
	// is no error.
	Release(ctx context.Context, task string) error

	// Close ends what the pool has started in this process.
	Close() error
}

// Opener is a Pool that needs to know of the run. A pool that is not opened has started
// nothing and written nothing.
type Opener interface {
	Pool

	// Open is called once, before Check. run names the run, in all of its sessions and
	// processes; dir is a folder that is the pool's own, of the run in one process and
	// for this session alone in others. It need not be there.
	Open(ctx context.Context, run, dir string) error
}

// FindPool finds a pool of the run by its name.
type FindPool func(name string) (Pool, error)
