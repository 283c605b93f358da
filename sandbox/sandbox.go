// Package sandbox holds sandboxes in which tasks run commands: pools of leases,
// each with processes and files of its own.
//
// A lease is a cache of state that can be made again. It is found by its key, it
// is asked for with the commands that are known to have run in it (its past), and
// what one is lost with, a process, a machine, a folder, costs time and nothing
// else: the pool brings the state back from a disk or by running the past again.
// A command has a key as well, and one that ran is answered from its record.
//
// The package knows nothing of tasks, configs and agents: keys are strings, and
// commands are bytes.
package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"
)

// Key names a lease. There is one lease of a key in a pool, whoever asks.
type Key struct{ Run, Pool, Task string }

// Name is the lease's name towards the machine, of its processes' limits, folders and
// containers: mx-RUN-POOL-TASK, of hashes of the run's and the task's id.
func (k Key) Name() string {
	return runPrefix(k.Run) + "-" + k.Pool + "-" + short(k.Task, 12)
}

func runPrefix(run string) string { return "mx-" + short(run, 8) }

func short(s string, n int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:n]
}

// A Pool makes leases, holds as many at once as it has room for, and ends them.
type Pool interface {
	// Lease returns the sandbox of key, whose commands so far are those of past: the
	// one that is live, or one that is made again. It waits for room, in order, until
	// ctx ends. Whoever has the lease calls Done. A second Lease of a key waits for the
	// first one's Done.
	//
	// The errors are *ImageError, *SetupError, *LostError, *FullError, *FencedError
	// and ctx's.
	Lease(ctx context.Context, key Key, s Spec, past Past) (Lease, error)

	// Release ends the lease of key and removes what it left. It is idempotent, and of
	// a key that nobody has it does nothing.
	Release(ctx context.Context, key Key) error

	// Sweep removes what an earlier process of this run has left here and no process
	// holds any more: limits, mounts, containers, and the folders of keys of which live
	// reports false. Nil: of all. Of other runs, and of processes of this run that
	// still live, it touches nothing. It returns how many leases it removed.
	Sweep(ctx context.Context, live func(Key) bool) (int, error)

	// Check reports whether this machine can keep what the pool promises. What it
	// returns says what to do: to install, or to leave out of the config.
	Check(ctx context.Context) error

	// Warnings are the promises that are not kept here and need not be, by
	// enforce: best_effort. They are known once Check has returned.
	Warnings() []string

	Stats() Stats

	// Close ends all sandboxes. State on a disk stays, for whoever opens the pool next.
	Close() error
}

// A Lease is a sandbox in somebody's hand. Its calls may be made concurrently, and wait
// for a command that runs, but for pools that keep one sandbox for all; what Open and
// Dial gave flows beside commands. Nobody holds a lease while asking the same pool for
// another one: there may be no room for both.
type Lease interface {
	Info() Info

	// Exec runs a command, or answers from the record where one of this key ran
	// already. What the command did, its exit code, its time-out, is a Result. Where
	// the sandbox is lost under it the pool makes it again and runs the command in that
	// one, or returns an *InDoubtError, as it is told to. Other errors: *LostError,
	// *FullError, *FencedError and ctx's.
	Exec(ctx context.Context, c Command) (Result, error)

	// Put writes a file: whole or not at all. A relative path is one of the sandbox's
	// directory. What must be there again in a sandbox that is made again belongs into
	// Spec.Files or Command.Files.
	Put(ctx context.Context, path string, mode fs.FileMode, r io.Reader) error

	// Get reads a file, at most so many bytes of it. It follows no link out of the
	// sandbox. The error of a file that is not there is fs.ErrNotExist.
	Get(ctx context.Context, path string, most int64) (io.ReadCloser, error)

	// Open starts a program that stays, and gives its standard input and output. It
	// ends with its Close or with the lease's process, and is no part of the past.
	Open(ctx context.Context, c Command) (Stream, error)

	// Dial connects to a TCP port of the sandbox's own loopback.
	Dial(ctx context.Context, port int) (net.Conn, error)

	// Done gives the lease back to the pool, which keeps its state until Release, and
	// its process for a while.
	Done()
}

// Stream is a program's standard input and output.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error // ends its input
	Stderr() string    // the end of what it wrote there
	Wait(ctx context.Context) (Result, error)
}

// Spec is what a lease is made of: what a task may say of its own sandbox.
type Spec struct {
	Image string            `json:"image,omitempty"` // of kinds that have images
	Root  string            `json:"root,omitempty"`  // of bwrap: a folder that is the sandbox's file system. Empty: this machine's programs, and nothing else of it
	Setup []string          `json:"setup,omitempty"` // shell commands, once for each sandbox that is made
	Files map[string][]byte `json:"files,omitempty"` // put before Setup
	Env   map[string]string `json:"env,omitempty"`
	Dir   string            `json:"dir,omitempty"` // where commands begin. Empty: DefaultDir
}

// DefaultDir is where commands begin, and HOME.
const DefaultDir = "/home/user"

// Command is what is run.
type Command struct {
	Key   string            `json:"key"`             // HOP/INDEX: the commit that will hold it, and its place there
	Args  []string          `json:"args,omitempty"`  // program and arguments; or
	Shell string            `json:"shell,omitempty"` // a line for /bin/sh
	Stdin []byte            `json:"stdin,omitempty"`
	Dir   string            `json:"dir,omitempty"`   // empty: the lease's
	Env   map[string]string `json:"env,omitempty"`   // beside the lease's
	Files map[string][]byte `json:"files,omitempty"` // put before it runs
	Get   []string          `json:"get,omitempty"`   // files to bring along once it ran

	Timeout time.Duration `json:"timeout,omitempty"` // 0, or more than the pool's: the pool's
	Output  int64         `json:"output,omitempty"`  // bytes kept of each stream; likewise
	Merge   bool          `json:"merge,omitempty"`   // standard error is written where standard output is
}

// hash is of all that is asked, but for the key.
func (c Command) hash() string {
	c.Key = ""
	b, err := json.Marshal(c)
	if err != nil { // strings, numbers and bytes
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// hop is the number before the slash of the key.
func (c Command) hop() (int64, error) {
	hop, _, ok := strings.Cut(c.Key, "/")
	n, err := strconv.ParseInt(hop, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("a command has the key %q, want HOP/INDEX", c.Key)
	}
	return n, nil
}

// Result is what a command came to.
type Result struct {
	Code   int               `json:"code"`
	Signal string            `json:"signal,omitempty"` // that ended it, as SIGKILL; Code is 128 and its number then
	Out    []byte            `json:"out,omitempty"`    // the first and the last of it, where it is longer than may be kept
	Err    []byte            `json:"err,omitempty"`
	Cut    int64             `json:"cut,omitempty"`   // bytes left out between first and last, of both
	Files  map[string][]byte `json:"files,omitempty"` // those of Command.Get that are there

	TimedOut bool `json:"timed_out,omitempty"`
	OOM      bool `json:"oom,omitempty"` // a process of the command was killed for memory
	Replayed bool `json:"-"`             // from the record: the command ran before

	Took time.Duration `json:"took,omitempty"`
	CPU  time.Duration `json:"cpu,omitempty"`  // user and system
	Peak int64         `json:"peak,omitempty"` // bytes
}

// Past is what ran in a lease so far: the commands that are committed, in order.
type Past struct{ Calls []Command }

// Restored is how a lease came by its state.
type Restored string

const (
	Fresh  Restored = "fresh"  // made now, with nothing in its past
	Live   Restored = "live"   // its processes never ended
	Disk   Restored = "disk"   // its files were kept; its processes are new
	Replay Restored = "replay" // made now, and its past run again
)

// Info says which sandbox a lease is.
type Info struct {
	Key        Key
	Name       string // Key.Name
	Generation int    // how often the sandbox was made; 1 is the first
	Restored   Restored
	Waited     time.Duration // for room
}

// Stats are of a pool, since it was opened; the first four are of now.
type Stats struct {
	Size    int // sandboxes that have room at once
	Held    int // that have processes, in somebody's hand or not
	Parked  int // whose state is on disk alone
	Waiting int // calls of Lease that wait for room

	Made     int64              // sandboxes started
	Restored map[Restored]int64 // leases by how they came by their state
	Lost     int64              // sandboxes that died unasked
	Swept    int64
	Execs    int64
	Waited   time.Duration // for room, all together
	Out      string        // why nothing can be started just now; empty where it can
}
