package agent

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"matrix"
)

// What a command agent starts ends with it, also where it made a session of its own.
func TestCommandEndsWhatLeftItsGroup(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere nobody can find it")
	}
	file := filepath.Join(t.TempDir(), "pid")
	a := python(t, Command{Env: map[string]string{"FILE": file}}, nil, `
import subprocess
child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
open(os.environ["FILE"], "w").write(str(child.pid))
answer(text="ok")`)
	if _, err := a.Act(t.Context(), &matrix.Task{ID: "r", Row: "r"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	alive := func() bool { // a zombie waits for its parent only
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err == nil && !strings.Contains(string(stat), ") Z ")
	}
	if !alive() {
		t.Fatal("the child is not there to begin with")
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); alive(); {
		if time.Now().After(end) {
			t.Fatalf("process %d outlives its agent", pid)
		}
		runtime.Gosched()
	}
}
