package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"matrix/dataset"
)

// following is echo over a dataset that grows, and has n rows.
func following(t *testing.T, n int) (dir, inbox string) {
	dir = files(t, map[string]string{"config.yaml": strings.Replace(echo, "id: id}", "id: id, follow: true}", 1), "rows.jsonl": rows(n)})
	return dir, filepath.Join(dir, "rows.jsonl")
}

// write makes a file of the test.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// A run whose dataset may grow is not complete, whatever is pending.
func TestVerifyOfWhatMayGrow(t *testing.T) {
	dir, inbox := following(t, 0)
	out := filepath.Join(dir, "out")
	interrupts := make(chan os.Signal, 1)
	interrupts <- os.Interrupt
	program(Program{interrupts: interrupts}, "run", dir, "-o", out).want(t, exitStopped)
	matrixCmd("verify", out).want(t, 0, "0 pending", "OK", "Rows may still be appended")
	matrixCmd("verify", out, "--complete").want(t, 1, "rows may still be appended to the dataset: the run is not complete", "!repair")
	write(t, inbox+dataset.EndSuffix, "")
	matrixCmd("run", dir, "-o", out).want(t, 0)
	matrixCmd("verify", out, "--complete").want(t, 0, "OK", "!appended")
}

// whenWaiting is what a command prints, which does something the first time that it says
// that it waits.
type whenWaiting struct {
	bytes.Buffer
	then func()
}

func (w *whenWaiting) Write(p []byte) (int, error) {
	if w.then != nil && bytes.Contains(p, []byte("Waiting for rows in ")) {
		w.then()
		w.then = nil
	}
	return w.Buffer.Write(p)
}

// runWaiting runs the config in dir into its folder out, and calls then when it waits for
// rows.
func runWaiting(dir string, then func(interrupts chan<- os.Signal), args ...string) result {
	interrupts := make(chan os.Signal, 1)
	errs := &whenWaiting{then: func() { then(interrupts) }}
	var out bytes.Buffer
	p := Program{In: strings.NewReader(""), Out: &out, Err: errs, interrupts: interrupts, every: time.Millisecond}
	code := p.Main(append([]string{"run", dir, "-o", filepath.Join(dir, "out")}, args...))
	return result{code, out.String(), errs.String()}
}

func interrupt(interrupts chan<- os.Signal) { interrupts <- os.Interrupt }

// A run that waits for rows says so once, and how to end it. Stopped then, by whatever, it
// has no task that is pending.
func TestWaitingForRows(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		add   string
		then  func(t *testing.T, inbox string, interrupts chan<- os.Signal)
		code  int
		texts []string
	}{
		"ended": {"", func(t *testing.T, inbox string, _ chan<- os.Signal) { write(t, inbox+dataset.EndSuffix, "") }, 0, []string{"!pending;"}},
		"interrupted": {"", func(_ *testing.T, _ string, interrupts chan<- os.Signal) { interrupt(interrupts) }, exitStopped,
			[]string{"Stopped. It was waiting for rows in ROWS; the same command goes on:", "!pending;"}},
		"budget": {"+budget.wall=1s", func(*testing.T, string, chan<- os.Signal) {}, exitStopped,
			[]string{"It was waiting for rows in ROWS; a larger budget goes on:", "!pending;"}},
		"cut": {"", func(t *testing.T, inbox string, _ chan<- os.Signal) { write(t, inbox, rows(1)) }, exitError,
			[]string{"the file has changed", "It was waiting for rows in ROWS; once that is put right, the same command goes on:", "!pending;"}},
		"removed": {"", func(t *testing.T, inbox string, _ chan<- os.Signal) {
			if err := os.Remove(inbox); err != nil {
				t.Error(err)
			}
		}, exitError, []string{"ROWS", "It was waiting for rows in ROWS; once that is put right, the same command goes on:", "!pending;"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, inbox := following(t, 3)
			var args []string
			if c.add != "" {
				args = append(args, c.add)
			}
			r := runWaiting(dir, func(interrupts chan<- os.Signal) { c.then(t, inbox, interrupts) }, args...)
			for i := range c.texts {
				c.texts[i] = strings.ReplaceAll(c.texts[i], "ROWS", inbox)
			}
			r.want(t, c.code, append(c.texts, "done 3", "Waiting for rows in "+inbox+"; 'touch "+inbox+dataset.EndSuffix+"' ends the run.")...)
			if n := strings.Count(r.err, "Waiting for rows"); n != 1 {
				t.Errorf("it is said %d times that the run waits:\n%s", n, r.err)
			}
		})
	}
}

// A run that has followed a file, and is told to follow it no more, runs what was appended
// since and ends; what is appended later is accepted first. After its end it goes on where
// that is accepted, too.
func TestFollowNoMore(t *testing.T) {
	dir, inbox := following(t, 2)
	out := filepath.Join(dir, "out")
	runWaiting(dir, interrupt).want(t, exitStopped, "done 2")
	write(t, inbox, rows(3))
	matrixCmd("run", dir, "-o", out, "dataset.follow=false").want(t, 0, "done 3", "!accept")
	matrixCmd("verify", out, "--complete").want(t, 0, "3 done", "!appended")
	write(t, inbox, rows(4))
	matrixCmd("run", dir, "-o", out, "dataset.follow=false").want(t, 1, "Rows were appended", "--accept-changes")
	runWaiting(dir, func(chan<- os.Signal) {
		write(t, inbox+dataset.EndSuffix, "")
	}, "--accept-changes").want(t, 0, "done 4")
	matrixCmd("run", dir, "-o", out).want(t, 0, "is finished", "!waits for")
	if err := os.Remove(inbox + dataset.EndSuffix); err != nil {
		t.Fatal(err)
	}
	matrixCmd("run", dir, "-o", out).want(t, 0, "is finished", "--accept-changes waits for more rows;")
	write(t, inbox, rows(5)+`{"id":"half`)
	runWaiting(dir, func(chan<- os.Signal) {
		write(t, inbox+dataset.EndSuffix, "")
	}, "--accept-changes").want(t, 0, "done 5", "failed 1", "not valid JSON")
	matrixCmd("verify", out, "--complete").want(t, 0, "5 done + 1 failed")
}
