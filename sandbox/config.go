package sandbox

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Config is what all kinds of pools have in common, as YAML says it.
type Config struct {
	Keep    Keep          `yaml:"keep" doc:"How long a sandbox is kept: call, a new one for each command; task, one for each task; run, one for all tasks, whose state is nobody's." default:"task" enum:"call,task,run"`
	Size    Size          `yaml:"size" doc:"Sandboxes held at once in each process of the run; auto: as many as memory, processes and, of keep: call, cores admit by limits." default:"auto"`
	Limits  Limits        `yaml:"limits" doc:"What a sandbox may use."`
	Enforce Enforce       `yaml:"enforce" doc:"strict: a limit that this machine cannot keep stops the run before it begins; best_effort: it is said, and the run goes on without." default:"strict" enum:"strict,best_effort"`
	Network Net           `yaml:"network" doc:"What a sandbox may reach: none, or {allow: [HOST:PORT, \"*.HOST\"]} through a proxy of this process." default:"none"`
	Restore Restore       `yaml:"restore" doc:"How a sandbox that is gone is made again: replay, by setup and the task's commands so far; disk, from the files that it left, where it is on the same machine, else as replay; none: its task fails." default:"replay" enum:"replay,disk,none"`
	InDoubt InDoubt       `yaml:"in_doubt" doc:"What becomes of a command under which its sandbox was lost: rewind, it runs again in the state before it, of restore: disk from a layer of files that each command has; rebuild, likewise, in a new sandbox with the task's commands so far; rerun, it runs again on what it left; turn, it is an error for the agent." default:"rewind" enum:"rewind,rebuild,rerun,turn"`
	Park    time.Duration `yaml:"park" doc:"A sandbox that is not used for so long gives up its processes: at once where its files are kept, otherwise when another one waits for its room." default:"10s"`
	TTL     time.Duration `yaml:"ttl" doc:"One that is not used for so long is removed, and made again where it is asked for." default:"2h"`
}

// Limits bound one sandbox. Zero is no limit.
type Limits struct {
	CPU     float64       `yaml:"cpu" doc:"Cores. 0 for no limit." default:"0"`
	Memory  Bytes         `yaml:"memory" doc:"Of all its processes, and of files in memory, as 512MiB. 0 for no limit." default:"0"`
	PIDs    int           `yaml:"pids" doc:"Processes and threads at once. 0 for no limit." default:"0"`
	Disk    Bytes         `yaml:"disk" doc:"What it may write. 0 for no limit." default:"0"`
	Files   int           `yaml:"files" doc:"Files that a process may have open." default:"1024"`
	Timeout time.Duration `yaml:"timeout" doc:"Of each command: its whole process group is killed then." default:"60s"`
	Output  Bytes         `yaml:"output" doc:"Kept of standard output, and of standard error: the first and the last half, and how much was left out." default:"64KiB"`
}

// Keep is how long a sandbox is kept.
type Keep string

const (
	KeepCall Keep = "call"
	KeepTask Keep = "task"
	KeepRun  Keep = "run"
)

// Restore is how a sandbox is made again that is gone.
type Restore string

const (
	RestoreReplay Restore = "replay"
	RestoreDisk   Restore = "disk"
	RestoreNone   Restore = "none"
)

// InDoubt is what becomes of a command under which its sandbox was lost.
type InDoubt string

const (
	Rewind  InDoubt = "rewind"
	Rebuild InDoubt = "rebuild"
	Rerun   InDoubt = "rerun"
	Turn    InDoubt = "turn"
)

// Enforce is what becomes of limits that cannot be kept.
type Enforce string

const (
	Strict     Enforce = "strict"
	BestEffort Enforce = "best_effort"
)

// Size is a number of sandboxes; 0 is auto.
type Size int

// UnmarshalText reads a number or auto.
func (s *Size) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*s = 0
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > 1e6 {
		return fmt.Errorf("got %q, want a number of sandboxes, 1 or more, or auto", text)
	}
	*s = Size(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) {
	if s == 0 {
		return []byte("auto"), nil
	}
	return strconv.AppendInt(nil, int64(s), 10), nil
}

// Bytes is a size, which may be written with KiB, MiB or GiB behind it.
type Bytes int64

var byteUnits = []struct {
	name string
	n    Bytes
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// UnmarshalText reads 65536, 64KiB, 1.5GiB.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, unit := string(text), Bytes(1)
	for _, u := range byteUnits {
		if n, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = n, u.n
			break
		}
	}
	x, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if x *= float64(unit); err != nil || math.IsNaN(x) || x < 0 || x > 1<<53 {
		return fmt.Errorf("got %q, want a size such as 65536, 64KiB, 512MiB or 2GiB", text)
	}
	*b = Bytes(math.Round(x))
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b != 0 && b%u.n == 0 {
			return strconv.FormatInt(int64(b/u.n), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Net is what a sandbox may reach beside itself. The zero Net is nothing.
type Net struct {
	Allow []string `yaml:"allow" doc:"HOST:PORT or *.HOST, of port 443 where none is named."`
}

// UnmarshalText reads none.
func (n *Net) UnmarshalText(text []byte) error {
	if string(text) != "none" {
		return fmt.Errorf("got %q, want none, or {allow: [HOST:PORT, ...]}", text)
	}
	*n = Net{}
	return nil
}

// MarshalText writes none of a Net that allows nothing.
func (n Net) MarshalText() ([]byte, error) {
	if len(n.Allow) == 0 {
		return []byte("none"), nil
	}
	return []byte(strings.Join(n.Allow, ",")), nil
}

// Contents is what a sandbox has in it at its beginning, as YAML says it. Whoever
// has the task renders the templates, and makes a Spec of them.
type Contents struct {
	Setup []string          `yaml:"setup" doc:"Templates over the task: shell commands, once for each sandbox that is made. One that fails fails the task."`
	Files map[string]string `yaml:"files" doc:"Templates over the task: what files hold, by their path; put before setup."`
	Env   map[string]string `yaml:"env" doc:"Templates over the task: environment of all commands. Nothing of this process's own environment is in it."`
	Dir   string            `yaml:"dir" doc:"Template over the task: where commands begin; made where it is not there." default:"/home/user"`
}

// Bwrap is a pool of the kind bwrap, as YAML says it.
type Bwrap struct {
	Config   `yaml:",inline"`
	Contents `yaml:",inline"`
	Root     string            `yaml:"root" doc:"Template over the task: a folder that is the sandbox's file system, as an unpacked image; it is never written to. Without it: programs and libraries of this machine, read-only, and nothing else of it."`
	Bind     map[string]string `yaml:"bind" doc:"Folders and files of this machine that a sandbox may read, by the path that they have in it."`
}

// Plain is a pool of the kind plain, as YAML says it.
type Plain struct {
	Config   `yaml:",inline"`
	Contents `yaml:",inline"`
}

// Options are what a pool is told by who opens it.
type Options struct {
	Run    string            // id of the run
	Pool   string            // its name there: letters, digits, - and _
	Folder string            // of the run, for files that are kept; it need not be there. Empty: none are kept
	Log    func(line string) // what is worth a line: an engine that is out, what is swept. nil drops it
}
