package workers

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"matrix/internal/near"
)

// Launcher starts workers on one kind of system.
type Launcher interface {
	// Start starts n workers as s says; 0 is as many as the launcher finds right.
	// Where some could be started and some not, those that could stay, and the error
	// says which could not.
	Start(ctx context.Context, g *Group, n int, s Spec) error

	// List says what the system knows of the workers of g: also of those that have
	// ended, where it knows of them.
	List(ctx context.Context, g *Group) ([]Unit, error)

	// Stop tells the workers of g to end what they have in hand and to leave, and
	// returns when none is left. When ctx ends before, they are ended at once.
	Stop(ctx context.Context, g *Group) error
}

// Spec says how workers are started.
type Spec struct {
	Program string                // path of this program, or of its build for the other machines
	Keeper  []string              // command of the process that does Keep
	Join    string                // path of the file with the line by which workers join
	Image   string                // container image; Kubernetes alone
	Command func(Worker) []string // what follows the program on its command line
}

// Worker is one worker as its command line tells it.
type Worker struct {
	Join   string   // path of a file, or "-": the first line of stdin, whose end is the worker's, too
	Name   string   // unique among all that were ever started
	Slots  int      // calls at once; 0: as Spec.Command says
	Labels []string // KEY=VALUE, beside those of Spec.Command
}

// Group is what one Start has started.
type Group struct {
	ID      string    `json:"id"` // what the names of its workers begin with
	On      string    `json:"on"` // as New took it
	Since   time.Time `json:"since"`
	Down    time.Time `json:"down,omitzero"`     // when all of it had been ended
	Context string    `json:"context,omitempty"` // of kubectl, empty for what it finds by itself

	Dir string `json:"-"` // its folder, for logs
}

// Unit is a worker as the system that runs it knows it.
type Unit struct {
	Name  string `json:"name"`
	Where string `json:"where,omitempty"` // host, where it is known
	State State  `json:"state"`
	Text  string `json:"text,omitempty"` // the system's own words, or how it ended
	Log   string `json:"log,omitempty"`  // file on this machine, where there is one
}

// State is what a worker is at.
type State string

// The states of a worker.
const (
	Waiting State = "waiting" // for a machine, or for a connection
	Running State = "running"
	Ended   State = "ended"  // as it should: the run has, or it was told to
	Failed  State = "failed" // it has ended, too
)

// Over reports whether a worker in this state has ended.
func (s State) Over() bool { return s == Ended || s == Failed }

// TargetError says that there is no place of that description to start workers on.
type TargetError struct {
	On  string
	Err error
}

func (e *TargetError) Error() string { return fmt.Sprintf("%q: %v", e.On, e.Err) }
func (e *TargetError) Unwrap() error { return e.Err }

// New returns the launcher of a place:
//
//	local             processes on this machine
//	ssh:FILE          the hosts that a file lists, one a line
//	slurm:OPTIONS     jobs, with options of sbatch
//	ray:ADDRESS       a Ray cluster, by the address of its dashboard; its query are resources of each worker
//	k8s:NAMESPACE     pods, by the context that kubectl has
func New(on string) (Launcher, error) {
	kind, arg, _ := strings.Cut(on, ":")
	var l Launcher
	var err error
	switch kind {
	case "local":
		if l = (kept{}); strings.Contains(on, ":") {
			err = errors.New("nothing follows local")
		}
	case "ssh":
		l, err = newSSH(arg)
	case "slurm":
		l, err = newSlurm(arg)
	case "ray":
		l, err = newRay(arg)
	case "k8s":
		l, err = newKube(arg)
	default:
		kinds := []string{"local", "ssh:FILE", "slurm:OPTIONS", "ray:ADDRESS", "k8s:NAMESPACE"}
		hint := ""
		if n := near.Name(kind, []string{"local", "ssh", "slurm", "ray", "k8s"}); n != "" {
			hint = " (did you mean " + n + "?)"
		}
		err = fmt.Errorf("there is no kind %q%s; there are %s", kind, hint, strings.Join(kinds, ", "))
	}
	if err != nil {
		return nil, &TargetError{on, err}
	}
	return l, nil
}

// Folder is where the groups are written down that were started for one run.
type Folder struct{ Dir string }

const groupFile = "group.json"

// New makes a group of no workers yet, for a Launcher to start. It stands in the
// folder until it is removed.
func (f Folder) New(on string) (*Group, error) {
	kind, _, _ := strings.Cut(on, ":")
	g := &Group{On: on, Since: time.Now()}
	g.ID = kind + "-" + strings.ToLower(rand.Text()[:8])
	g.Dir = filepath.Join(f.Dir, g.ID)
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(g.Dir, 0o700); err != nil {
		return nil, err
	}
	return g, g.Save()
}

// Save writes g down again.
func (g *Group) Save() error {
	b, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(g.Dir, groupFile), b, 0o600)
}

// Groups are those that were not removed, in the order in which they were started.
func (f Folder) Groups() ([]*Group, error) {
	entries, err := os.ReadDir(f.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*Group
	for _, e := range entries {
		g := &Group{Dir: filepath.Join(f.Dir, e.Name())}
		file := filepath.Join(g.Dir, groupFile)
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue // it was never begun
		}
		if err == nil {
			err = json.Unmarshal(b, g)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, g)
	}
	slices.SortStableFunc(all, func(a, b *Group) int { return a.Since.Compare(b.Since) })
	return all, nil
}

// End notes that nothing of a group is left. Its logs stay.
func (f Folder) End(g *Group) error {
	g.Down = time.Now()
	return g.Save()
}

// Logs are the files of a group in which its workers have said something.
func (g *Group) Logs() []string {
	files, _ := fs.Glob(os.DirFS(g.Dir), "*.log") // the pattern is one
	for i := range files {
		files[i] = filepath.Join(g.Dir, files[i])
	}
	return slices.DeleteFunc(files, func(file string) bool {
		info, err := os.Stat(file)
		return err != nil || info.Size() == 0
	})
}

// Remove forgets a group of which nothing was started.
func (f Folder) Remove(g *Group) error {
	if err := os.RemoveAll(g.Dir); err != nil {
		return err
	}
	left, err := f.Groups()
	if err != nil || len(left) > 0 {
		return err
	}
	return os.RemoveAll(f.Dir)
}

// writeWhole writes a file whole or not at all.
func writeWhole(file string, b []byte, mode fs.FileMode) error {
	if err := os.WriteFile(file+".new", b, mode); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// readJoin reads the line by which workers join.
func readJoin(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	line, rest, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if line == "" || rest != "" {
		return "", fmt.Errorf("%s: want one line, by which workers join", file)
	}
	return line, nil
}
