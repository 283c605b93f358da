package cli

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// What an earlier run has paid for is told before, while and after it is reused.
func TestReuse(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(30)})
	old, again := filepath.Join(t.TempDir(), "old"), filepath.Join(t.TempDir(), "again")
	matrixCmd("run", dir, "-o", old, "dataset.limit=20").want(t, 0)
	asked := calls.Load()

	f := forecastOf(t, dir, "trials=2", "--reuse", old)
	if f.Reused == nil || f.Reused.Calls != 20 || f.Reused.Tasks != 60 || !within(40*0.05, *f.USD) || f.Roles[0].Calls.Mid != 60 {
		t.Errorf("got %+v, reused %+v", f, f.Reused)
	}
	matrixCmd("plan", dir, "trials=2", "--reuse", old).want(t, 0, "20 of 60 calls are there already, and cost nothing.\n")
	matrixCmd("plan", dir, "trials=1000", "--reuse", old).want(t, 0, "About 30 of 30.0k calls are there already, and cost nothing: 10,000 of 30,000 tasks were looked at.\n")
	matrixCmd("plan", dir, "--reuse", dir).want(t, exitUsage, "reuse: "+dir+" is not the folder of a run")
	if calls.Load() != asked {
		t.Errorf("a plan made %d calls", calls.Load()-asked)
	}

	r := matrixCmd("run", dir, "-o", again, "trials=2", "--reuse", old, "display=plain").want(t, 0, "of them reused")
	if calls.Load() != asked+40 {
		t.Errorf("asked %d times, want 40", calls.Load()-asked)
	}
	r.want(t, 0, "Reusing "+old+": 20 replies that need not be paid again", "reused 20 of 60 calls")
	matrixCmd("show", again, "-n", "0", "--where", "last.call.reused != nil").want(t, 0)
	matrixCmd("stats", again).want(t, 0)
	matrixCmd("run", dir, "-o", again, "trials=2", "--reuse", again).want(t, exitUsage, "is the folder of this run itself")
}

// Who changes a prompt in the middle is told how many tasks have the old one.
func TestOlderPrompt(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(30)})
	out := filepath.Join(t.TempDir(), "out")
	matrixCmd("run", dir, "-o", out, "dataset.limit=20").want(t, 0)
	r := matrixCmd("run", dir, "-o", out, "roles.say.chat.prompt=another {{ item.id }}", "--accept-changes").want(t, 0, "Done with another prompt of say than it has now: 20 tasks.")
	where := regexp.MustCompile(`--where '(.*)'`).FindStringSubmatch(r.err)
	if where == nil {
		t.Fatalf("it does not say how to see them:\n%s", r.err)
	}
	if n := strings.Count(matrixCmd("show", out, "-n", "0", "--where", where[1]).want(t, 0).out, "say"); n < 20 {
		t.Errorf("got %d of 20 tasks", n)
	}
	if r := matrixCmd("run", dir, "-o", out, "roles.say.chat.prompt=another {{ item.id }}", "live=3"); strings.Contains(r.err, "another prompt") {
		t.Errorf("told again:\n%s", r.err)
	}
}
