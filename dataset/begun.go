package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"matrix"
)

// Names in the folder of a run.
const (
	DataDir     = "data"
	DroppedDir  = "dropped"
	ExpandedDir = "expanded"
	FailedDir   = "failed"
	FormatsDir  = "formats" // see Formats
)

// OutputDir is the folder of a run with the tasks that ended so.
func OutputDir(s matrix.Status) string {
	return map[matrix.Status]string{matrix.Done: DataDir, matrix.Dropped: DroppedDir, matrix.Expanded: ExpandedDir, matrix.Failed: FailedDir}[s]
}

// Begun says how tasks of an earlier run are gone on with. What they cost and took
// stays with that run: calls of their turns are Reused, and cost nothing.
type Begun struct {
	Run     string // its folder, as it is told
	Role    string // acts next: its first turn, and what came behind, is cut off
	New     bool   // that run had no such role: all turns stay
	Formats string // folder with the formats of calls
}

// ErrRetrying says that failed tasks of a run are being tried again: they stand nowhere
// as they ended.
var ErrRetrying = errors.New("its failed tasks are being tried again, and that has not ended: run it to its end")

// OutputFiles are the files of the run in dir with the tasks that ended so, in order.
func OutputFiles(dir string, ends ...matrix.Status) (paths []string, err error) {
	for _, s := range ends {
		entries, err := os.ReadDir(filepath.Join(dir, OutputDir(s)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			name, ending, _ := strings.Cut(e.Name(), ".")
			switch {
			case ending != "jsonl" && ending != "jsonl.gz" && ending != "jsonl.zst":
			case strings.HasPrefix(name, "retry-"):
				return nil, ErrRetrying
			case strings.HasPrefix(name, "part-"):
				paths = append(paths, filepath.Join(dir, OutputDir(s), e.Name()))
			}
		}
	}
	return paths, nil
}

// task is the task of a line as it goes on; nil where it did not come to the role.
func (b *Begun) task(line []byte) (*matrix.Task, error) {
	t, err := ParseTask(line)
	if err == nil && t.ID == "" {
		err = errors.New("it has no id")
	}
	if err != nil {
		return nil, fmt.Errorf("it is not a task that a run has put out: %w", err)
	}
	RestoreFormats(b.Formats, t)
	if !b.New {
		i := slices.IndexFunc(t.Turns, func(x matrix.Turn) bool { return x.Role == b.Role && x.Hop > 0 })
		if i < 0 {
			return nil, nil
		}
		t.Turns = t.Turns[:i]
	}
	t.Outcome, t.Metrics = nil, nil
	for i := range t.Turns {
		turn := &t.Turns[i]
		turn.Hop, turn.Timing = 0, matrix.Timing{At: turn.Timing.At}
		for k := range turn.Calls {
			c := &turn.Calls[k]
			if c.Reused == nil {
				c.Reused = &matrix.Reused{Run: b.Run, Task: t.ID}
			}
			c.Retries, c.Tokens, c.Estimated, c.USD, c.WaitMS, c.RetryMS, c.FirstMS, c.TookMS = 0, matrix.Tokens{}, false, 0, 0, 0, 0, 0
		}
	}
	return t, nil
}
