package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"matrix/dataset"
	"matrix/internal/rundir"
	"matrix/internal/stats"
	"matrix/local"
)

// scored is a run over rows(10) of which q1, q4 and q7 stop at say, q9 fails, and the others
// are judged: q0 2, q2 0, q3 2, q5 1, q6 0, q8 2.
const scored = `
name: scored
dataset: {path: rows.jsonl, id: id}
models:
  m: {kind: scripted, reply: "{{ 'the same' if item.n % 5 == 3 else 'reply ' ~ item.n }}"}
roles:
  say: {chat: {model: m, prompt: "{{ item.text }}"}}
  judge: {compute: {score: "[2, nil, 0, 2, nil, 1, 0, nil, 2, nil][item.n]"}}
flow:
  - {role: say, stop: item.n % 3 == 1, finish: nil}
  - {role: judge, stop: item.n == 9, fail: "no score for {{ item.text }}"}
metrics: {score: last.data.score, n: item.n}
`

// What is not wanted is counted by reason, read apart, and part of no training set.
func TestDropped(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": strings.NewReplacer("finish: nil", "drop: 'third {{ item.n }}'", `fail: "no`, `drop: "no`).Replace(scored), "rows.jsonl": rows(10)})
	for _, c := range []struct {
		detail string
		shown  []string
		lines  int
	}{
		{"turns", []string{"q4", "dropped", "third 4", "reply 4", "!question 4"}, 4},
		{"full", []string{"q4", "dropped", "third 4", "reply 4", "question 4"}, 4},
		{"reason", []string{"q4", "dropped", "third 4", "!reply 4", "!question 4"}, 4},
		{"none", nil, 0},
	} {
		out := filepath.Join(dir, c.detail)
		matrixCmd("run", dir, "-o", out, "output.dropped="+c.detail).want(t, 0, "done 6", "dropped 4", "failed 0", "dropped, by reason", "3 x third", "1 x no score for question 9", "--dropped")
		if got := len(ids(t, out, "data", "part-00000.jsonl")); got != 6 {
			t.Errorf("%s: %d lines in data/, want 6", c.detail, got)
		}
		matrixCmd("verify", out, "--complete").want(t, 0, "10 tasks = 6 done + 4 dropped + 0 failed + 0 pending")
		if c.detail == "none" {
			if _, err := os.Stat(filepath.Join(out, rundir.DroppedDir)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a folder of nothing: %v", err)
			}
			matrixCmd("show", out, "q4").want(t, 1, "nothing was kept of it", "output.dropped=none")
			continue
		}
		matrixCmd("show", out, "q4", "--full").want(t, 0, c.shown...)
		matrixCmd("show", out, "--dropped", "-n", "0", "--where", `cause contains "score"`).want(t, 0, "q9", "!q4")
		matrixCmd("stats", out).want(t, 0, "10 finished tasks", "done 6 60.0%", "dropped 4 40.0%", "3 x third")
		matrixCmd("export", out, "-o", filepath.Join(out, "..", c.detail+".jsonl"), "--format", "tasks").want(t, 0, "6 rows")
	}
	again := filepath.Join(dir, "turns")
	matrixCmd("run", dir, "-o", again, "output.dropped=none").want(t, 0, "finished: 6 done, 4 dropped, 0 failed")
	matrixCmd("run", dir, "-o", again, "output.dropped=nothing").want(t, 2, "output.dropped")
	matrixCmd("run", dir, "-o", again, "--fresh", "output.dropped=none").want(t, 0, "dropped 4")
	if _, err := os.Stat(filepath.Join(again, rundir.DroppedDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("--fresh left what was dropped: %v", err)
	}
}

// statsOf is what stats says as JSON, times left out, numbers to nine digits.
func statsOf(t *testing.T, dir string) *stats.Report {
	t.Helper()
	r := matrixCmd("stats", dir, "--json").want(t, 0)
	s := new(stats.Report)
	rounded := regexp.MustCompile(`\d+\.\d+`).ReplaceAllStringFunc(r.out, func(n string) string {
		x, _ := strconv.ParseFloat(n, 64)
		return strconv.FormatFloat(x, 'g', 9, 64)
	})
	if err := json.Unmarshal([]byte(rounded), s); err != nil {
		t.Fatal(err)
	}
	for i := range s.By {
		s.By[i].TookMS = nil
	}
	return s
}

// A run comes to the same sums however its output is written.
func TestStats(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": scored, "rows.jsonl": rows(10)})
	var first *stats.Report
	for i, how := range [][]string{{}, {"shards=3"}, {"output.compress=gzip", "output.rows_per_part=2"}, {"output.compress=zstd", "shards=2"}} {
		out := filepath.Join(dir, fmt.Sprint("out", i))
		matrixCmd(append([]string{"run", dir, "-o", out}, how...)...).want(t, 0)
		s := statsOf(t, out)
		matrixCmd("stats", out).want(t, 0, "10 finished tasks", "done 9 90.0%", "stopped: say 3 30.0%", "failed 1 10.0%", "fault: flow 1", "pending 0", "1 x no score for question 9 (q9)",
			"say m 10", "final text, characters 9 7.22 0.44 7 7 7 7 8 8", "metric score 6 33.3% 1.167", "7 ▕███", "Duplicates: 1 of 9 final texts (11.1%) repeats an earlier one. The most frequent one stands 2 times, first in q")
		matrixCmd("show", out, "--sort", "score", "-n", "2", "--where", "n > 2").want(t, 0, "q6", "q5", "!q2", "!q8", "There are more: a larger -n")
		s.Texts.Example = nil // shards have an order of their own
		if s.Causes[0].Words = ""; first == nil {
			first = s
		} else if !reflect.DeepEqual(s, first) {
			got, _ := json.Marshal(s)
			want, _ := json.Marshal(first)
			t.Errorf("%v: got %s, want %s", how, got, want)
		}
	}
	if first.Done != 9 || first.Failed != 1 || *first.Pending != 0 || first.UnderWay || first.Stopped["say"] != 3 || first.Faults["flow"] != 1 {
		t.Errorf("got %+v", first)
	}
	// 2, 0, 2, 1, 0, 2.
	if m := first.Metrics["score"]; m.Missing != 3 || m.Spread.Count != 6 || m.Spread.Median != 1.5 || m.Spread.Q1 != 0.25 || m.Spread.Q3 != 2 || m.Spread.Sum != 7 {
		t.Errorf("score: got %+v of %+v", m.Spread, m)
	}
	// "the same" of q3 and q8, and seven times "reply N".
	if x := first.Texts; x.Characters.Count != 9 || x.Characters.Min != 7 || x.Characters.Max != 8 || x.Copies != 1 || x.None != 0 || x.Histogram[0].Count != 7 {
		t.Errorf("texts: got %+v", x)
	}
}

// A run of which nothing is done, nothing at all is finished, or all has failed has sums too.
func TestStatsOfLittle(t *testing.T) {
	dir := files(t, map[string]string{
		"config.yaml": scored, "rows.jsonl": rows(10), "bare/data/.keep": "",
		"failing.yaml": "name: failing\ndataset: {path: rows.jsonl, id: id}\nmax_failed: none\nroles:\n  say: {compute: {n: int(item.text)}}\nflow: [say]\nmetrics: {n: item.n}\n",
	})
	none := filepath.Join(dir, "none")
	matrixCmd("run", dir, "-o", none, "dataset.where=false").want(t, 0)
	matrixCmd("stats", none).want(t, 0, "0 finished tasks", "pending 0", "!metric", "!Duplicates")
	matrixCmd("stats", filepath.Join(dir, "bare")).want(t, 0, "0 finished tasks", "pending not known yet")
	failed := filepath.Join(dir, "failed")
	matrixCmd("run", filepath.Join(dir, "failing.yaml"), "-o", failed).want(t, 0)
	matrixCmd("stats", failed).want(t, 0, "done 0 0%", "failed 10 100%", "fault: step 10", "failed, by cause", "!metric", "!Duplicates")
	if s := statsOf(t, failed); s.Failed != 10 || s.Texts.Characters != nil || s.Turns.Count != 10 || len(s.Causes) != 1 || s.Causes[0].Count != 10 {
		t.Errorf("got %+v", s)
	}
	matrixCmd("stats", dir).want(t, 2, "is not the folder of a run")
	matrixCmd("stats").want(t, 2, "needs DIR")
}

// What is finished is summed up while a process holds the state, and it is said that this
// is not all.
func TestStatsWhileRunning(t *testing.T) {
	dir := runFolderOf(t, 12, dataset.SinkOptions{RowsPerPart: 4})
	if s := statsOf(t, dir); s.UnderWay || s.Done != 10 || s.Failed != 1 {
		t.Errorf("stopped: got %+v", s)
	}
	q, err := local.Open(filepath.Join(dir, rundir.StateDir), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	tear(t, dir, "none")
	if err := os.WriteFile(filepath.Join(dir, rundir.SummaryFile), []byte(`{"tasks": 12, "done": 7}`), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("stats", dir).want(t, 0, "The run is under way", "done 10", "failed 1", "pending 1")
	if s := statsOf(t, dir); !s.UnderWay || s.Done != 10 || *s.Pending != 1 {
		t.Errorf("under way: got %+v", s)
	}
}

// Tasks are picked and ordered by expressions over what they came to.
func TestShowPicks(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": scored, "rows.jsonl": rows(10)})
	out := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", out, "live=1").want(t, 0)
	for _, test := range []struct {
		args string // by "|"
		want string // ids
	}{
		{"--sort|score", "q2 q6 q5"},
		{"--sort|-score|-n|4", "q0 q3 q8 q5"},
		{"--sort|-score|-n|20", "q0 q3 q8 q5 q2 q6 q1 q4 q7"},
		{"--sort|-item.n|-n|2", "q8 q7"},
		{"--sort|last.role|-n|7", "q0 q2 q3 q5 q6 q8 q1"},
		{"--sort|score ?? 9|-n|20", "q2 q6 q5 q0 q3 q8 q1 q4 q7"},
		{"--sort|score == 2|-n|4", "q1 q2 q4 q5"},
		{"--where|score == 2|-n|0", "q0 q3 q8"},
		{"--where|metrics.score == 2 && turn(\"say\").text == \"the same\"", "q3 q8"},
		{"--where|stopped == \"say\"|--sort|-n", "q7 q4 q1"},
		{"--failed|--where|fault == \"flow\" && cause contains \"question 9\"", "q9"},
		{"--where|nil", ""},
	} {
		r := matrixCmd(append([]string{"show", out}, strings.Split(test.args, "|")...)...).want(t, 0)
		var ids []string
		for line := range strings.Lines(r.out) {
			if id, _, ok := strings.Cut(line, "  "); ok && strings.HasPrefix(id, "q") {
				ids = append(ids, id)
			}
		}
		if got := strings.Join(ids, " "); got != test.want {
			t.Errorf("show %s: got %s, want %s\n%v", test.args, got, test.want, r)
		}
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"--where|len(turns) > 99", 0, "none is such that len(turns) > 99"},
		{"--where|scor == 2", 2, "--where scor == 2: unknown name scor"},
		{"--where|rounds(\"sai\") > 1", 2, `there is no role "sai" (did you mean "say"?)`},
		{"--where|item.x == 2", 1, `--where item.x == 2: of task q0: item has no field "x"`},
		{"--where|item.n", 1, "must be true or false"},
		{"--sort|turns", 1, "want a number, a text, or true or false"},
		{"--sort|-", 2, "want the name of a metric or an expression"},
		{"--sort|", 2, "--sort is empty"},
		{"--sort|n|-n|0", 2, "-n is 0"},
		{"q1|--sort|n", 2, "an ID names one task"},
	} {
		matrixCmd(append([]string{"show", out}, strings.Split(test.args, "|")...)...).want(t, test.code, test.want)
	}
}

// A pager is for a terminal with a person before it.
func TestPagerFor(t *testing.T) {
	live := terminal{file: os.Stdout}
	for _, test := range []struct {
		t         terminal
		never     bool
		pager, ci string
		want      string
	}{
		{live, false, "more -s", "", "more -s"},
		{live, true, "more", "", ""},
		{live, false, "more", "true", ""},
		{live, false, "", "", ""},
		{live, false, "cat", "", ""},
		{terminal{}, false, "more", "", ""},
		{terminal{file: os.Stdout, dumb: true}, false, "more", "", ""},
	} {
		t.Setenv("PAGER", test.pager)
		t.Setenv("CI", test.ci)
		if got := pagerFor(test.t, test.never); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
	os.Unsetenv("PAGER")
	t.Setenv("CI", "")
	if got := pagerFor(live, false); got != "less" {
		t.Errorf("without PAGER: got %q, want less", got)
	}
}

// What is written comes through the pager; one that is left ends the writing, and one that
// is not there is done without.
func TestPager(t *testing.T) {
	for program, want := range map[string]string{"sed 's/^/> /'": "> one\n> two\n", "no-such-pager-here -x": "one\ntwo\n"} {
		var out bytes.Buffer
		p := &pager{program: program, out: &out}
		fmt.Fprintln(p, "one")
		fmt.Fprintln(p, "two")
		if err := p.close(); err != nil || out.String() != want {
			t.Errorf("%s: got %q and error %v, want %q", program, out.String(), err, want)
		}
	}
	var out bytes.Buffer
	p := &pager{program: "true", out: &out}
	var err error
	for err == nil {
		_, err = fmt.Fprintln(p, strings.Repeat("x", 4096))
	}
	if !errors.Is(err, syscall.EPIPE) || !p.left {
		t.Errorf("writing to a pager that was left: got %v, want %v", err, syscall.EPIPE)
	}
	if err := p.close(); err != nil {
		t.Errorf("close: got %v", err)
	}
	idle := &pager{program: "false", out: &out}
	if err := idle.close(); err != nil || idle.cmd != nil {
		t.Errorf("a pager to which nothing is written begins: %v", err)
	}
}
