package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// piped runs a command with something at its standard input.
func piped(in string, args ...string) result {
	var out, errs bytes.Buffer
	p := Program{In: strings.NewReader(in), Out: &out, Err: &errs}
	return result{p.Main(args), out.String(), errs.String()}
}

// What came in by the standard input stays with the run: it goes on with the same rows, and is
// verified by them.
func TestStandardInput(t *testing.T) {
	dir := files(t, map[string]string{"echo.yaml": strings.Replace(echo, "path: rows.jsonl", `path: "-"`, 1)})
	config, out := filepath.Join(dir, "echo.yaml"), filepath.Join(dir, "out")
	run := []string{"run", config, "out=" + out}
	piped("nonsense\n", append(run, "dataset.id=")...)
	if err := os.RemoveAll(out); err != nil {
		t.Fatal(err)
	}
	piped(rows(5), append(run, "dataset.limit=3")...).want(t, 0, "done 3")
	piped(rows(50)[30:], append(run, "dataset.limit=0", "--accept-changes")...).want(t, 0, "done 5")
	matrixCmd("verify", out).want(t, 0, "5 tasks = 5 done", "OK")
	piped(rows(2), append(run, "--fresh")...).want(t, 0, "done 2")
	matrixCmd("verify", out).want(t, 0, "2 tasks = 2 done")
	matrixCmd("preview", config).want(t, 2, "echo.yaml:3", "dataset.path: - is what comes in by the standard input, and that only matrix run reads")
	piped("", append(run, "--fresh")...).want(t, 0, "done 0")
	piped("a;b\n1;2\n", append(run, "--fresh")...).want(t, 2, "does not say what kind of file it is", "or say it by format")
	tty := process(t, append(run, "out="+filepath.Join(dir, "other"))...)
	if said, err := tty.CombinedOutput(); err == nil || !strings.Contains(string(said), "nothing comes in by the standard input") { // /dev/null
		t.Errorf("got %s, %v", said, err)
	}
}
