package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"matrix/internal/python"
)

// The rows of a file come out as they stand there, in their order, with columns of the
// run beside them.
func TestExportJoin(t *testing.T) {
	labels := strings.Replace(echo, "[say]", "[{role: say, finish: 'item.n % 2 == 0 ? \"even\" : \"odd\"'}]", 1)
	dir := files(t, map[string]string{"config.yaml": labels, "rows.jsonl": rows(30)})
	run := filepath.Join(dir, "out")
	matrixCmd("run", dir, "-o", run, "dataset.limit=20", "dataset.skip=2", "dataset.rename={text: text}").want(t, 0)
	source := filepath.Join(dir, "rows.jsonl")
	out := filepath.Join(dir, "joined.jsonl")
	matrixCmd("export", run, "-o", out, "--join", source, "--column", "label=value", "--column", "twice=item.n * 2").want(t, 0, "30 rows", "Of 10 rows of "+source+" no finished task is exported")
	before := lines(t, source)
	for i, line := range lines(t, out) {
		label := "null"
		twice := "null"
		if i >= 2 && i < 22 {
			label, twice = fmt.Sprintf("%q", []string{"even", "odd"}[i%2]), fmt.Sprint(2*i)
		}
		if want := strings.TrimSuffix(before[i], "}") + `,"label":` + label + `,"twice":` + twice + "}"; line != want {
			t.Errorf("row %d: got %s, want %s", i, line, want)
		}
	}
	csv := filepath.Join(dir, "joined.csv")
	matrixCmd("export", run, "-o", csv, "--join", source, "--column", "label=value", "--where", "item.n == 2").want(t, 0, "30 rows", "Of 29 rows")
	if got := lines(t, csv); got[0] != "id,text,n,label" && got[0] != "id,n,text,label" || !strings.HasSuffix(got[3], ",even") || !strings.HasSuffix(got[4], ",") {
		t.Errorf("got %q", got[:5])
	}
	typed := filepath.Join(dir, "joined.parquet") // and joined to that again
	matrixCmd("export", run, "-o", typed, "--join", source, "--column", "label=value").want(t, 0, "30 rows")
	matrixCmd("export", run, "-o", filepath.Join(dir, "again.jsonl"), "--join", typed, "--column", "again=value").want(t, 0, "30 rows")
	if got := lines(t, dir, "again.jsonl")[5]; !strings.Contains(got, `"label":"odd","again":"odd"`) {
		t.Errorf("got %s", got)
	}
	matrixCmd("export", run, "-o", "a.jsonl", "--join", source, "--column", "text=value").want(t, 2, `column "text" is in `, "choose another name")
	matrixCmd("export", run, "-o", "a.jsonl", "--join", source, "--column", "x=value", "--shuffle").want(t, 2, "keep their order")
	matrixCmd("export", run, "-o", "a.jsonl", "--join", "none.jsonl", "--column", "x=value").want(t, 2, "--join", "none.jsonl")
	other := filepath.Join(dir, "other.jsonl")
	if err := os.WriteFile(other, []byte("{\"key\": 1}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("export", run, "-o", filepath.Join(dir, "none", "a.jsonl"), "--join", other, "--column", "x=value").want(t, 2, "no row of "+other+" has the id of a task", `the row has no field "text"`)
	if err := os.WriteFile(other, []byte("{\"key\": 1}\n{\"id\": \"q5\", \"text\": \"x\"}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("export", run, "-o", filepath.Join(dir, "odd.jsonl"), "--join", other, "--column", "x=value").want(t, 0, "2 rows", "Of 1 row")
	if got, want := read(t, dir, "odd.jsonl"), "{\"key\": 1,\"x\":null}\n{\"id\": \"q5\", \"text\": \"x\",\"x\":\"odd\"}\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := os.WriteFile(other, []byte("{\"id\": \"q5\", \"text\": \"x\"}\n{\"id\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("export", run, "-o", filepath.Join(dir, "bad.jsonl"), "--join", other, "--column", "x=value").want(t, 1, "other.jsonl:2 cannot be read, and so not be written")
	if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder was left that was made for nothing")
	}
	trials := filepath.Join(dir, "trials")
	matrixCmd("run", dir, "-o", trials, "trials=2").want(t, 0)
	matrixCmd("export", trials, "-o", "a.jsonl", "--join", source, "--column", "x=value").want(t, 1, "two finished tasks of row", "such as trial == 0")
	matrixCmd("export", trials, "-o", filepath.Join(dir, "first.jsonl"), "--join", source, "--column", "x=value", "--where", "trial == 0").want(t, 0, "30 rows")
}

// A folder has the names that load_dataset and the hub look for, and a card with the
// recipe, in which there is no secret.
func TestExportFolder(t *testing.T) {
	t.Setenv("MY_API_KEY", "sk-verysecret123")
	config := strings.Replace(echo, "models:", "models:\n  other: {base_url: 'http://me:sk-verysecret123@127.0.0.1:1/v1', model: x, api_key: '${env:MY_API_KEY}'}", 1)
	config = strings.Replace(config, "say: {chat: {", "say: {chat: {system: \"Fences\\n```\\nare hard\", ", 1)
	dir := ran(t, config, rows(40))
	set := filepath.Join(t.TempDir(), "set")
	matrixCmd("export", dir, "-o", set, "--max-shard-size", "1KB", "--license", "apache-2.0", "--split", "test=0.2,train=0.8").want(t, 0, "train-00000-of-0000", "test-00000-of-0000")
	train, _ := filepath.Glob(filepath.Join(set, "data", "train-*"))
	if len(train) < 3 || !strings.HasSuffix(train[0], fmt.Sprintf("train-00000-of-%05d.jsonl", len(train))) {
		t.Errorf("got %v, want several files whose names say how many they are", train)
	}
	card := read(t, set, "README.md")
	front, rest, _ := strings.Cut(strings.TrimPrefix(card, "---\n"), "\n---\n")
	var meta struct {
		License string
		Size    []string `yaml:"size_categories"`
		Tags    []string
		Configs []struct {
			Name  string                         `yaml:"config_name"`
			Files []struct{ Split, Path string } `yaml:"data_files"`
		}
	}
	if err := yaml.Unmarshal([]byte(front), &meta); err != nil {
		t.Fatalf("%v\n%s", err, front)
	}
	if meta.License != "apache-2.0" || len(meta.Configs) != 1 || fmt.Sprint(meta.Configs[0].Files) != "[{train data/train-*} {test data/test-*}]" || fmt.Sprint(meta.Size) != "[n<1K]" {
		t.Errorf("got front matter %+v", meta)
	}
	for _, want := range []string{"| done | 40 |", "| say | m | m |", "you said {{ prompt }}", "- Seed: 0", "````yaml"} {
		if !strings.Contains(rest, want) {
			t.Errorf("the card lacks %q:\n%s", want, rest)
		}
	}
	if strings.Contains(card, "verysecret") {
		t.Errorf("the card has a secret:\n%s", card)
	}

	// Fewer files replace all that an export wrote, and nothing else.
	if err := os.WriteFile(filepath.Join(set, "data", "mine.jsonl"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	matrixCmd("export", dir, "-o", set).want(t, 2, "a folder that is not empty: --force")
	matrixCmd("export", dir, "-o", set, "--force").want(t, 0, "train-00000-of-00001.jsonl")
	left, _ := filepath.Glob(filepath.Join(set, "data", "*"))
	if len(left) != 2 || filepath.Base(left[0]) != "mine.jsonl" {
		t.Errorf("got %v, want one file and mine", left)
	}
	for _, c := range [][2]string{{"--license", "mit"}, {"--max-shard-size", "1MB"}, {"--as", "jsonl"}} {
		matrixCmd("export", dir, "-o", "a.jsonl", c[0], c[1]).want(t, 2, c[0]+" is for a folder")
	}
	matrixCmd("export", dir, "-o", "b", "--max-shard-size", "big").want(t, 2, "want bytes with a unit")
}

// The card says what became of tasks, and why some were dropped; those are in no set.
func TestExportDropped(t *testing.T) {
	dir := ran(t, strings.Replace(echo, "flow: [say]", `flow: {start: say, after: {say: [{when: item.n < 3, drop: "too small: {{ item.n }}"}, {finish: item.n}]}}`, 1), rows(8))
	set := filepath.Join(t.TempDir(), "set")
	matrixCmd("export", dir, "-o", set).want(t, 0, "5 rows")
	if card := read(t, set, "README.md"); !strings.Contains(card, "| done | 5 |\n| dropped | 3 |\n| dropped: too small: # | 3 |") {
		t.Errorf("got the card\n%s", card)
	}
}

// exports is a config whose run makes a training set.
const exports = echo + `
output:
  rows_per_part: 7
  export: {format: messages, as: %s, columns: {id: id, n: metrics.n}, where: item.n %% 3 > 0, split: {train: 0.7, test: 0.3}, shuffle: true}
`

// A run makes its training set by itself: the one that an export of it makes.
func TestRunExports(t *testing.T) {
	t.Parallel()
	for _, as := range []string{"jsonl", "parquet"} {
		dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(exports, as), "rows.jsonl": rows(50)})
		run := filepath.Join(dir, "out")
		same := func() {
			t.Helper()
			by := filepath.Join(t.TempDir(), "by")
			matrixCmd("export", run, "-o", by, "--as", as, "--column", "id=id", "--column", "n=metrics.n", "--where", "item.n % 3 > 0", "--split", "train=0.7,test=0.3", "--shuffle").want(t, 0)
			for _, name := range []string{"data/train-00000-of-00001." + as, "data/test-00000-of-00001." + as, "README.md"} {
				if got, want := read(t, run, "export", name), read(t, by, name); got != want {
					t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
				}
			}
		}
		matrixCmd("run", dir, "-o", run, "dataset.limit=20", "shards=2").want(t, 0, "training set: "+filepath.Join(run, "export"), "13 rows", "left out of 20 finished tasks: 7 for which where is not true")
		same()
		matrixCmd("run", dir, "-o", run, "shards=2", "--accept-changes").want(t, 0, "33 rows") // it goes on
		same()
		was, _ := os.Stat(filepath.Join(run, "export", "README.md"))
		matrixCmd("run", dir, "-o", run, "shards=2").want(t, 0, "is finished", "!training set")
		if is, _ := os.Stat(filepath.Join(run, "export", "README.md")); !os.SameFile(was, is) {
			t.Error("the training set was made again, though nothing has changed")
		}
		matrixCmd("run", dir, "-o", run, "shards=2", "output.export.shuffle=false").want(t, 0, "is finished", "33 rows") // other options, another set
		matrixCmd("run", dir, "-o", run, "shards=2", "--fresh", "~output.export").want(t, 0)
		if _, err := os.Stat(filepath.Join(run, "export")); err == nil {
			t.Error("a run that started over has the training set of the one before")
		}
	}
}

// What is wrong with a training set is said before the run begins, where that can be
// known; else at its end, and the run is whole.
func TestRunExportRefuses(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(exports, "jsonl"), "rows.jsonl": rows(20)})
	for override, want := range map[string]string{
		"output.export.format=chatml":                 `there is no format "chatml"`,
		"output.export.format=":                       "output.export.format",
		"output.export.where=nobody":                  "where nobody",
		"output.export.split={train: 0.7, test: 0.2}": "add up to 0.9",
		"output.export.assistant=judge":               `there is no role "judge"`,
		"output.export.as=csv":                        "CSV holds columns alone",
		"output.export.columns={messages: id}":        "choose another name",
		"output.export.min_margin=1":                  "a least margin is for dpo",
		"output.export.sort=id":                       "not both",
		"output.export.licence=mit":                   "license",
	} {
		r := matrixCmd("run", dir, "-o", filepath.Join(dir, "out"), override)
		r.want(t, 2, want, "output.export")
	}
	run := filepath.Join(dir, "late")
	matrixCmd("run", dir, "-o", run, `output.export.columns={x: 'item.n == 19 ? "last" : item.n'}`).want(t, 1, "the run is finished, and its training set is not made", "a column has one type", "the same command makes it")
	matrixCmd("verify", run, "--complete").want(t, 0)
	matrixCmd("run", dir, "-o", run, `output.export.columns={x: item.n}`).want(t, 0, "is finished", "training set")
	matrixCmd("run", dir, "-o", run, `output.export.where=item.n > 100`).want(t, 0, "training set: none of 20 finished tasks gives a row")
	if left, _ := filepath.Glob(filepath.Join(run, "export", "data", "*")); len(left) > 0 {
		t.Errorf("got %v, want none where no row is left", left)
	}
}

// A disk that is full under an export says so, and leaves what was there.
func TestExportFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=200k", "none", disk).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a small disk here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir := ran(t, echo+"trials: 20\n", rows(500))
	for _, ending := range []string{".jsonl", ".parquet", ".csv"} {
		out := filepath.Join(disk, "set"+ending)
		if err := os.WriteFile(out, []byte("kept\n"), 0o666); err != nil {
			t.Fatal(err)
		}
		for _, flags := range [][]string{nil, {"--shuffle"}, {"--join", filepath.Join(filepath.Dir(dir), "rows.jsonl"), "--where", "trial == 0", "--column", `many=map(1..200, string(seed + #))`}} {
			if ending == ".csv" || len(flags) > 2 {
				flags = append(flags, "--format", "columns")
			}
			matrixCmd(append([]string{"export", dir, "-o", out, "--force", "--column", "its=id", "--column", "said=item.text", "--column", "seed=seed", "--column", "again=last"}, flags...)...).
				want(t, 1, "no space left on device", "The disk is full")
			if got := read(t, out); got != "kept\n" {
				t.Errorf("%s: got %.100q, want what was there", out, got)
			}
			if all, _ := os.ReadDir(disk); len(all) != 1 {
				t.Errorf("got %v, want nothing but what was there", all)
			}
		}
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
	}
}

// Tools and arguments stand as it is said; what does not fit into one type of column is an
// error, and so is a way that a form does not have.
func TestExportTools(t *testing.T) {
	two := strings.Replace(several, "n: 3}", "tools: [{name: look, parameters: {type: object, properties: {at: {type: string}}}}]}", 1)
	dir := ran(t, strings.Replace(two, `map(turn("say").samples, len(.text))`, "[2]", 1), rows(3))
	out := filepath.Join(t.TempDir(), "a.jsonl")
	matrixCmd("export", dir, "-o", out).want(t, 0)
	if got := lines(t, out)[0]; !strings.Contains(got, `"tools":[{"type":"function"`) {
		t.Errorf("got %s, want a list of tools", got)
	}
	matrixCmd("export", dir, "-o", out, "--force", "--tools", "text").want(t, 0)
	if got := lines(t, out)[0]; !strings.Contains(got, `"tools":"[{\"type\":\"function\"`) {
		t.Errorf("got %s, want tools as text", got)
	}
	for _, mode := range []string{"text", "json", "object"} {
		matrixCmd("export", dir, "-o", filepath.Join(t.TempDir(), "a.parquet"), "--tools", mode).want(t, 0, "3 rows")
	}
	matrixCmd("export", dir, "-o", out, "--force", "--tools", "json").want(t, 2, "a type of Parquet")
	matrixCmd("export", dir, "-o", out, "--force", "--tools", "yaml").want(t, 2, "want object, text or json")
	matrixCmd("export", dir, "-o", out, "--force", "--tools", "text", "--format", "sharegpt").want(t, 2, "sharegpt has none")
	matrixCmd("export", dir, "-o", out, "--force", "--score", "len(sample.text)").want(t, 0, "3 rows") // of one reply the best
}

// Of several replies the best is learnt, and pairs that are close are left out.
func TestExportBestOfN(t *testing.T) {
	dir := ran(t, several, rows(3))
	out := filepath.Join(t.TempDir(), "a.jsonl")
	matrixCmd("export", dir, "-o", out, "--sort", "id", "--score", "len(sample.text)").want(t, 0, "3 rows")
	for i, want := range []string{"the longest", "three", "quite long"} {
		if got := lines(t, out)[i]; !strings.Contains(got, `"content":"`+want+`"}]`) {
			t.Errorf("got %s, want the reply %q", got, want)
		}
	}
	matrixCmd("export", dir, "-o", out, "--force", "--score", "nil").want(t, 1, "with no reply that has a score")
	matrixCmd("export", dir, "-o", out, "--force", "--format", "dpo", "--score", "len(sample.text)", "--min-margin", "6").
		want(t, 0, "2 rows", "1 whose margin is less than 6")
	matrixCmd("export", dir, "-o", out, "--force", "--min-margin", "6").want(t, 2, "a least margin is for dpo")
	matrixCmd("export", dir, "-o", out, "--force", "--score", "id").want(t, 1, "want a number, got a text")
}

// What is exported is what TRL's trainers read: the folder as load_dataset finds it, each
// dialogue with its tools as it was, in JSON Lines and in Parquet.
func TestTRLLoadsExports(t *testing.T) {
	interpreter := python.Readers(t)
	if err := exec.CommandContext(t.Context(), interpreter, "-c", "import trl, datasets, transformers").Run(); err != nil {
		t.Skip("this Python has no trl: MATRIX_PYTHON names one that has")
	}
	best, tools := ran(t, several, rows(3)), example(t, "tools")
	two := strings.Replace(several, "n: 3}", "n: 3, tools: [{name: look, parameters: {type: object, properties: {at: {type: string}}}}, {name: add, parameters: {type: object, properties: {n: {type: integer}}}}]}", 1)
	other := ran(t, two, rows(3))
	work := t.TempDir()
	n := 0
	set := func(dir string, flags ...string) {
		for _, as := range []string{"jsonl", "parquet", "parquet json"} {
			as, mode, _ := strings.Cut(as, " ")
			name := filepath.Join(work, fmt.Sprint("set", n))
			n++
			args := append([]string{"export", dir, "-o", name, "--as", as, "--column", "id=id"}, flags...)
			if mode != "" {
				args = append(args, "--tools", mode)
			}
			matrixCmd(args...).want(t, 0)
			matrixCmd(append([]string{"export", dir, "-o", name + "plain", "--column", "id=id"}, flags...)...).want(t, 0)
			plain, _ := filepath.Glob(filepath.Join(name+"plain", "data", "*"))
			for _, path := range plain {
				split, _, _ := strings.Cut(filepath.Base(path), "-")
				if err := os.Rename(path, name+"."+split+".jsonl"); err != nil {
					t.Fatal(err)
				}
			}
			os.RemoveAll(name + "plain")
		}
	}
	for _, dir := range []string{tools, other} {
		for _, format := range []string{"messages", "prompt-completion"} {
			set(dir, "--format", format, "--shuffle")
		}
	}
	set(best, "--format", "dpo", "--score", `turn("judge").data.scores[index]`)
	set(best, "--format", "kto", "--label", "index == 0", "--split", "train=0.5,test=0.5")
	set(other, "--format", "dpo", "--score", `turn("judge").data.scores[index]`)
	cmd := exec.CommandContext(t.Context(), interpreter, "testdata/trainers.py", work)
	cmd.Env = append(os.Environ(), "HF_HOME="+t.TempDir(), "HF_HUB_OFFLINE=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Fields(string(out)); len(got) == 0 || got[len(got)-1] != fmt.Sprint(n) {
		t.Errorf("got %s, want %d sets", out, n)
	}
}
