package config_test

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"matrix/internal/config"
	"matrix/spec"
)

type upper string

func (u *upper) UnmarshalText(b []byte) error { *u = upper(strings.ToUpper(string(b))); return nil }

type sampling struct {
	Temperature *float64        `yaml:"temperature" doc:"How random."`
	Stop        []string        `yaml:"stop"`
	Format      json.RawMessage `yaml:"format"`
	Extra       map[string]any  `yaml:"extra"`
}

type openAI struct {
	BaseURL  string            `yaml:"base_url" required:"true" doc:"Where it is."`
	APIKey   string            `yaml:"api_key" secret:"true"`
	Hush     string            `yaml:"hush" secret:"true"`
	Headers  map[string]string `yaml:"headers"`
	Timeout  time.Duration     `yaml:"timeout" default:"60s" free:"true"`
	Retries  int8              `yaml:"retries" default:"3"`
	Workers  int               `yaml:"workers" default:"one for each core"`
	Mode     string            `yaml:"mode" enum:"fast,slow" default:"fast"`
	Big      uint              `yaml:"big"`
	On       *bool             `yaml:"on" default:"true"`
	File     string            `yaml:"file" path:"true"`
	Upper    upper             `yaml:"upper"`
	Kind     string            `yaml:"kind"`
	Items    []item            `yaml:"items"`
	Sampling sampling          `yaml:",inline"`
}

type item struct {
	To   string          `yaml:"to"`
	When *config.Section `yaml:"when"`
}

const full = `name: n
dataset: {path: data/*.jsonl}
models:
  t:
    base_url: http://h
    temperature: 1
    stop: a
    format: {type: json, n: [1, 2.5, null]}
    extra: {k: 1}
    timeout: 1.5
    upper: abc
    file: ../x/../y.txt
    big: 1e3
    items: [{to: x, when: 1}, {to: y}]
roles:
  x: {concurrency: 2, chat: {model: t}}
  y: {compute: {a: 1}}
flow: [x, y]
metrics: {m: 1.0, k: true}
grace: 1m
`

func TestDecode(t *testing.T) {
	dir := write(t, "sub/config.yaml", full)
	tree, err := config.Load(spec.Run{}, "sub", []string{"out=o"})
	if err != nil {
		t.Fatal(err)
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	if want := (spec.Paths{filepath.Join(dir, "sub/data/*.jsonl")}); !cmp.Equal(run.Dataset.Path, want) {
		t.Errorf("got path %v, want %v", run.Dataset.Path, want)
	}
	if want := filepath.Join(dir, "o"); run.Out != want {
		t.Errorf("got out %v, want %v", run.Out, want)
	}
	if run.Live != 1000 || run.Trials != 1 || run.Grace != time.Minute || run.Limits.Then != "fail" ||
		run.Output.RowsPerPart != 100000 || run.Roles["x"].Attempts != 3 || run.Roles["x"].Concurrency != 2 {
		t.Errorf("defaults are wrong: %+v", run)
	}
	if want := map[string]string{"m": "1.0", "k": "true"}; !cmp.Equal(run.Metrics, want) {
		t.Errorf("got metrics %v, want %v", run.Metrics, want)
	}
	if got := run.Roles["x"].Agent["chat"].Get("model").Path(); got != "roles.x.chat.model" {
		t.Errorf("got path %q", got)
	}
	if run.Flow.Kind() != config.List || len(run.Flow.Items()) != 2 || run.Flow.Items()[1].Path() != "flow.1" {
		t.Errorf("flow is %v of %d", run.Flow.Kind(), len(run.Flow.Items()))
	}
	var o openAI
	if err := run.Models["t"].Decode(&o); err != nil {
		t.Fatal(err)
	}
	if got := o.Items[0].When.Path(); got != "models.t.items.0.when" || o.Items[1].When != nil || o.Items[1].When.Kind() != config.Null {
		t.Errorf("sections in a list: %q, %v", got, o.Items[1].When)
	}
	o.Items = nil
	one, on := 1.0, true
	want := openAI{BaseURL: "http://h", Timeout: 1500 * time.Millisecond, Retries: 3, Mode: "fast", Big: 1000, On: &on,
		File: filepath.Join(dir, "y.txt"), Upper: "ABC", Sampling: sampling{Temperature: &one, Stop: []string{"a"},
			Format: json.RawMessage(`{"n":[1,2.5,null],"type":"json"}`), Extra: map[string]any{"k": 1}}}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeErrors(t *testing.T) {
	write(t, "config.yaml", `name: [a]
nmae: x
dataset: {pth: x}
live: many
trials: 1.5
seed: 99999999999999999999
grace: 5 minutes
display: fancy
metrics: [a]
limits: {tokens: -1, rounds: '3'}
roles: 5
params: ${env:CONFIG_TEST_UNSET}
models:
  t: {mode: fst, retries: 300, big: -1, on: yes, stop: {a: 1}, items: [{too: 1}, 5], timeout: 1x, extra: 7}
default: [models: t]
`)
	tree := load(t, "output.compress=zst")
	var run spec.Run
	want := []string{
		`config.yaml:1:7: name: expected a text, got a list`,
		`config.yaml:4:7: live: expected a whole number, got the text "many"`,
		`config.yaml:6:7: seed: expected a whole number, got 99999999999999999999`,
		`config.yaml:5:9: trials: got "1.5", want 1 or more, or until`,
		`config.yaml:12:9: params: environment variable CONFIG_TEST_UNSET is not set; set it, or write ${env:CONFIG_TEST_UNSET,default}`,
		`config.yaml:3:10: dataset.path: is missing`,
		`config.yaml:3:11: dataset.pth: unknown key (did you mean "path"?)`,
		`config.yaml:11:8: roles: expected a map, got 5`,
		`config.yaml:1:1: flow: is missing`,
		`config.yaml:10:30: limits.rounds: expected a whole number, got the text "3"`,
		`config.yaml:9:10: metrics: expected a map, got a list`,
		`command line: output.compress=...: expected none, gzip or zstd, got the text "zst" (did you mean "zstd"?)`,
		`config.yaml:8:10: display: expected auto, live, plain or none, got the text "fancy"`,
		`config.yaml:7:8: grace: expected a duration such as 500ms, 60s or 1h30m, got the text "5 minutes"`,
		`config.yaml:2:1: nmae: unknown key (did you mean "name"?)`,
		`config.yaml:15:1: default: unknown key (did you mean "defaults"?)`,
	}
	got := lines(tree.Decode(&run))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = []string{
		`config.yaml:14:6: models.t.base_url: is missing`,
		`config.yaml:14:56: models.t.stop: expected a text or a list of texts, got a map`,
		`config.yaml:14:106: models.t.extra: expected a map, got 7`,
		`config.yaml:14:95: models.t.timeout: expected a duration such as 500ms, 60s or 1h30m, got the text "1x"`,
		`config.yaml:14:27: models.t.retries: 300 is out of range`,
		`config.yaml:14:13: models.t.mode: expected fast or slow, got the text "fst" (did you mean "fast"?)`,
		`config.yaml:14:37: models.t.big: -1 is out of range`,
		`config.yaml:14:45: models.t.on: expected true or false, got the text "yes"`,
		`config.yaml:14:73: models.t.items.0.too: unknown key (did you mean "to"?)`,
		`config.yaml:14:82: models.t.items.1: expected a map, got 5`,
	}
	var o openAI
	got = lines(run.Models["t"].Decode(&o))
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestErrorAt(t *testing.T) {
	t.Setenv("CONFIG_TEST_A", "VALUE")
	write(t, "config.yaml", strings.Join([]string{
		/* 1 */ `plain: abcdef`,
		/* 2 */ `single: 'it''s bad'`,
		/* 3 */ `double: "a\n\u00e9\"bad"`,
		/* 4 */ `block: |`,
		/* 5 */ `  line one`,
		/* 6 */ ``,
		/* 7 */ `    line bad`,
		/* 8 */ `folded: >-`,
		/* 9 */ `  one`,
		/* 10 */ `  two bad`,
		/* 11 */ ``,
		/* 12 */ `  bad`,
		/* 13 */ `long: one`,
		/* 14 */ `  two bad`,
		/* 15 */ `ref: x ${env:CONFIG_TEST_A} bad`,
		/* 16 */ `file: !file p.txt`,
		/* 17 */ `flow: [{when: "ü bad"}]`,
		/* 18 */ `same: ${flow.0.when}`,
		/* 19 */ `esc: '\${x} bad'`,
		/* 20 */ `in: "a`,
		/* 21 */ `   b \`,
		/* 22 */ `   bad"`,
	}, "\n"), "p.txt", "x\n  bad\n")
	tree := load(t, "+cli=[a, 'x bad']")
	s := tree.Root()
	for _, tt := range []struct {
		path string
		want string
	}{
		{"plain", "config.yaml:1:8"}, {"single", "config.yaml:2:16"}, {"double", "config.yaml:3:21"},
		{"block", "config.yaml:7:10"}, {"folded", "config.yaml:10:7"}, {"long", "config.yaml:14:7"},
		{"ref", "config.yaml:15:29"}, {"file", "p.txt:2:3"}, {"flow.0.when", "config.yaml:17:18"},
		{"same", "config.yaml:17:18"}, {"esc", "config.yaml:19:13"}, {"params.cli.1", "command line: +cli=..."},
		{"in", "config.yaml:22:4"},
	} {
		var text string
		if err := s.Get(tt.path).Decode(&text); err != nil {
			t.Fatal(err)
		}
		line, col := 0, 0
		for i, l := range strings.Split(text, "\n") {
			if at := strings.Index(l, "bad"); at >= 0 {
				line, col = i+1, len([]rune(l[:at]))+1
				break
			}
		}
		got := s.ErrorAt(tt.path, line, col, "oops").Error()
		if want := tt.want + ": " + tt.path + ": oops"; got != want {
			t.Errorf("got %q, want %q (text %q, %d:%d)", got, want, text, line, col)
		}
	}
	if got, want := s.Get("flow.0").ErrorAt("", 0, 0, "oops").Error(), "config.yaml:17:8: flow.0: oops"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := s.Errorf("flow.0.no", 3, "oops").Error(), "config.yaml:17:8: flow.0.no: oops"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var run struct {
		Plain *config.Section            `yaml:"plain"`
		Rest  map[string]*config.Section `yaml:",inline"`
	}
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	if got, want := run.Rest["single"].Unknown("simple", "x").Error(), `config.yaml:2:1: single: unknown key (did you mean "simple"?)`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

type spoken struct {
	Word string `yaml:"word"`
	bare bool
}

func (s *spoken) UnmarshalText(text []byte) error { *s = spoken{string(text), true}; return nil }

type speech []spoken

func (s *speech) UnmarshalText(text []byte) error { *s = speech{{string(text), true}}; return nil }

// What reads a lone text may also be written out, and a lone map stands for a
// list of one.
func TestShortForms(t *testing.T) {
	write(t, "config.yaml", "a: hi\nb: {word: hi}\nc: hi\nd: [{word: x}, y]\ne: {word: hi}\nf: {wrd: hi}\ng: [[x]]\nh: 5\n")
	s := load(t).Root()
	for key, want := range map[string]spoken{"a": {"hi", true}, "b": {"hi", false}, "h": {"5", true}} {
		var one spoken
		if err := s.Get(key).Decode(&one); err != nil || one != want {
			t.Errorf("%s: got %+v, %v, want %+v", key, one, err, want)
		}
	}
	for key, want := range map[string]speech{"c": {{"hi", true}}, "d": {{"x", false}, {"y", true}}, "e": {{"hi", false}}} {
		var many speech
		if err := s.Get(key).Decode(&many); err != nil || !slices.Equal(many, want) {
			t.Errorf("%s: got %+v, %v, want %+v", key, many, err, want)
		}
	}
	for key, want := range map[string]string{
		"f":  `config.yaml:6:5: f.wrd: unknown key (did you mean "word"?)`,
		"g":  `config.yaml:7:5: g.0: expected a text or a map, got a list`,
		"no": `expected a text or a list, got nothing`,
	} {
		var many speech
		if err := s.Get(key).Decode(&many); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", key, err, want)
		}
	}
	if got, want := s.Get("e").Errorf("0.word", 0, "oops").Error(), "config.yaml:5:11: e.0.word: oops"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Where a text stands for a map, the map that is meant is told.
func TestMeantMap(t *testing.T) {
	type section struct {
		Path  []string `yaml:"path" required:"true" path:"true"`
		Limit int      `yaml:"limit"`
	}
	type program struct {
		Run []string `yaml:"run" required:"true"`
	}
	type parse struct {
		JSON  bool   `yaml:"json"`
		Regex string `yaml:"regex"`
	}
	type root struct {
		Data  section   `yaml:"data"`
		Runs  []program `yaml:"runs"`
		Parse parse     `yaml:"parse"`
	}
	write(t, "config.yaml", "data: my rows.jsonl\nruns: [{run: [a]}, python3 x.py --a=b, 5, [cat, 'a, b'], '']\nparse: json\n")
	tree, err := config.Load(root{}, "config.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	var r root
	err = tree.Decode(&r)
	for _, want := range []string{
		`data: expected a map, got the text "my rows.jsonl"; did you mean data: {path: "my rows.jsonl"}?`,
		`runs.1: expected a map, got the text "python3 x.py --a=b"; did you mean {run: [python3, x.py, "--a=b"]}?`,
		"runs.2: expected a map, got 5\n",
		`runs.3: expected a map, got a list; did you mean {run: [cat, "a, b"]}?`,
		"runs.4: expected a map, got the text \"\"\n",
		`parse: expected a map, got the text "json"; did you mean parse: {json: true}?`,
	} {
		if got := err.Error() + "\n"; !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
