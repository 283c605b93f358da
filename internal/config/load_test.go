package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"matrix/internal/config"
	"matrix/spec"
)

func TestInterpolate(t *testing.T) {
	t.Setenv("CONFIG_TEST_A", "va")
	t.Setenv("CONFIG_TEST_N", "12")
	tests := []struct {
		name, in  string
		overrides []string
		want      m
	}{
		{"whole keeps the type", "a: 1\nb: ${a}\nc: {d: [1, x]}\ne: ${c}\n", nil, m{"a": 1, "b": 1, "c": m{"d": []any{1, "x"}}, "e": m{"d": []any{1, "x"}}}},
		{"in a text", "a: {b: 1.50}\nc: 'x${a.b}y${a.b}'\n", nil, m{"a": m{"b": 1.5}, "c": "x1.50y1.50"}},
		{"nested", "a: {x: 1, y: 2}\nk: y\nv: ${a.${k}}\n", nil, m{"a": m{"x": 1, "y": 2}, "k": "y", "v": 2}},
		{"chain", "a: ${b}\nb: ${c}\nc: 3\n", nil, m{"a": 3, "b": 3, "c": 3}},
		{"through a reference", "a: ${b}\nb: {k: 1}\nc: ${a.k}\n", nil, m{"a": m{"k": 1}, "b": m{"k": 1}, "c": 1}},
		{"list item", "a: [x, {b: y}]\nc: '${a[1].b}${a.0}'\n", nil, m{"a": []any{"x", m{"b": "y"}}, "c": "yx"}},
		{"relative", "a: {b: 1, c: '${.b}', d: {e: '${..b}'}}\n", nil, m{"a": m{"b": 1, "c": 1, "d": m{"e": 1}}}},
		{"environment", "a: ${env:CONFIG_TEST_A}\nb: \"x-${env:CONFIG_TEST_A}\"\nn: ${env:CONFIG_TEST_N}\n", nil, m{"a": "va", "b": "x-va", "n": 12}},
		{"environment default", "a: ${env:CONFIG_TEST_NO,x y}\nb: ${env:CONFIG_TEST_NO,8}\nc: ${env:CONFIG_TEST_NO,}\nd: ${oc.env:CONFIG_TEST_NO,${b}}\n", nil, m{"a": "x y", "b": 8, "c": nil, "d": 8}},
		{"params without prefix", "params: {rounds: 3}\na: ${rounds}\nb: ${params.rounds}\n", nil, m{"params": m{"rounds": 3}, "a": 3, "b": 3}},
		{"params from the command line", "params: {rounds: 3}\na: ${rounds}\n", []string{"rounds=2"}, m{"params": m{"rounds": 2}, "a": 2}},
		{"params added", "a: ${rounds}\n", []string{"+rounds=2"}, m{"params": m{"rounds": 2}, "a": 2}},
		{"top level before params", "params: {seed: 1}\nseed: 2\na: ${seed}\n", []string{"seed=5"}, m{"params": m{"seed": 1}, "seed": 5, "a": 5}},
		{"escape", `a: '\${b} \\${c} $x {{ y }} \ z'` + "\nc: 1\n", nil, m{"a": `${b} \1 $x {{ y }} \ z`, "c": 1}},
		{"on the command line", "a: 1\nname: x\n", []string{"name=${a}"}, m{"a": 1, "name": 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(t, "config.yaml", tt.in)
			if diff := cmp.Diff(any(tt.want), plain(t, load(t, tt.overrides...))); diff != "" {
				t.Errorf("%q (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func TestYAML(t *testing.T) {
	tests := []struct {
		name, in string
		want     any
	}{
		{"scalars", "a: [1, -2, 0x1f, 0o17, 010, 1_000, 1.5, 1e3, .5, true, False, null, ~, yes, 12:30, 1.2.3, '5', -, +, .]\n",
			m{"a": []any{1, -2, 31, 15, 10, 1000, 1.5, 1e3, .5, true, false, nil, nil, "yes", "12:30", "1.2.3", "5", "-", "+", "."}}},
		{"big numbers", "a: 99999999999999999999\nb: 9223372036854775807\n", m{"a": 1e20, "b": 9223372036854775807}},
		{"anchors", "a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\nd: {<<: [{r: 1}, *x]}\n",
			m{"a": m{"p": 1, "q": 2}, "b": m{"p": 1, "q": 2}, "c": m{"p": 1, "q": 3}, "d": m{"r": 1, "p": 1, "q": 2}}},
		{"tags", "a: !!str 12\nb: !!int '3'\nc: !!float 1\n", m{"a": "12", "b": 3, "c": 1.0}},
		{"keys", "1: a\ntrue: b\n'x y': c\n", m{"1": "a", "true": "b", "x y": "c"}},
		{"byte order mark and CRLF", "\xef\xbb\xbfa: 1\r\nb: |\r\n  x\r\n  y\r\n", m{"a": 1, "b": "x\ny\n"}},
		{"empty map", "{}\n", m{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(t, "config.yaml", tt.in)
			if diff := cmp.Diff(tt.want, plain(t, load(t))); diff != "" {
				t.Errorf("%q (-want +got):\n%s", tt.in, diff)
			}
		})
	}
}

func TestOverride(t *testing.T) {
	const in = "name: n\ndataset: {path: a}\nmodels: {t: {base_url: u}}\nroles: {x: {chat: {model: t}}}\nparams: {k: {a: 1}, l: [1, 2]}\n"
	tests := []struct {
		override string
		path     string
		want     any
	}{
		{"name=x y: z, #1", "name", "x y: z, #1"},
		{"name=", "name", ""},
		{"name='it''s'", "name", "it's"},
		{`name="a\n\u00e9\x41"`, "name", "a\néA"},
		{`dataset.where='a' in item.x`, "dataset.where", "'a' in item.x"},
		{"dataset.where=item.x == 1", "dataset.where", "item.x == 1"},
		{"dataset.id={{ item.q }}", "dataset.id", "{{ item.q }}"},
		{"dataset.path=[a,b c, 'd,e']", "dataset.path", []any{"a", "b c", "d,e"}},
		{"dataset.limit=5", "dataset.limit", 5},
		{"limits.hops=7", "limits.hops", 7},
		{"k={b: 1, c: [x, {y: z}], 'd e':2}", "params.k", m{"a": 1, "b": 1, "c": []any{"x", m{"y": "z"}}, "d e": 2}},
		{"k.a=null", "params.k.a", nil},
		{"l.1=5", "params.l", []any{1, 5}},
		{"l[0]=5", "params.l", []any{5, 2}},
		{"l=[]", "params.l", []any{}},
		{"k={}", "params.k", m{"a": 1}},
		{"roles.x.chat.temperature=0.2", "roles.x.chat.temperature", 0.2},
		{"roles.x.attempts=2", "roles.x.attempts", 2},
		{"models.t.base_url=http://h:1/v1?a=b", "models.t.base_url", "http://h:1/v1?a=b"},
		{"+models.s.base_url=v", "models.s", m{"base_url": "v"}},
		{"++models.t.base_url=v", "models.t.base_url", "v"},
		{"+k.z=[${name}, {a: ${l.0}}]", "params.k.z", []any{"n", m{"a": 1}}},
		{"~params.k", "params", m{"l": []any{1, 2}}},
		{"~params.k.a=1", "params.k", m{}},
		{"metrics={a: b}", "metrics", m{"a": "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.override, func(t *testing.T) {
			write(t, "config.yaml", in)
			var got any
			if err := load(t, tt.override).Root().Get(tt.path).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// lines are the errors of err, one for each line.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestLoadErrors(t *testing.T) {
	long := strings.Repeat("[", 100000)
	tests := []struct {
		name      string
		files     []string // the first is the config
		overrides []string
		want      []string
	}{
		{"syntax", []string{"c.yaml", "a: 1\nb: [1,\n"}, nil, []string{`c.yaml:2:4: not valid YAML: sequence end token ']' not found`}},
		{"tab", []string{"c.yaml", "a:\n\tb: 1\n"}, nil, []string{`c.yaml:2:1: not valid YAML: a tab in the indentation; YAML wants spaces`}},
		{"empty", []string{"c.yaml", "# nothing\n"}, nil, []string{`c.yaml: the config is empty`}},
		{"list", []string{"c.yaml", "- a\n"}, nil, []string{`c.yaml:1:1: a config is a map of keys, got a list`}},
		{"binary", []string{"c.yaml", "\x7fELF\x02\x01\x00\x00\xff\xfe\x00"}, nil, []string{`c.yaml: is a binary file, not text in YAML`}},
		{"not UTF-8", []string{"c.yaml", "a: 1\nb: x\xff\n"}, nil, []string{`c.yaml:2:5: not valid UTF-8: if the file is Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`}},
		{"two documents", []string{"c.yaml", "a: 1\n---\nb: 1\n"}, nil, []string{`c.yaml:3:1: a second document; a config is one`}},
		{"deep", []string{"c.yaml", "a: " + long}, nil, []string{`c.yaml:1:204: lists and maps are nested more than 200 deep`}},
		{"duplicates", []string{"c.yaml", "a: 1\nb: {c: 1, c: 2}\na: 2\n"}, nil, []string{
			`c.yaml:2:11: b.c: is given twice, first in line 2`, `c.yaml:3:1: a: is given twice, first in line 1`}},
		{"no anchor", []string{"c.yaml", "a: *x\n"}, nil, []string{`c.yaml:1:4: a: no anchor &x before this alias`}},
		{"alias to itself", []string{"c.yaml", "a: &x {b: *x}\n"}, nil, []string{`c.yaml:1:11: a.b: no anchor &x before this alias`}},
		{"tag", []string{"c.yaml", "a: !include x\n"}, nil, []string{`c.yaml:1:4: a: unknown tag !include; there is !file`}},
		{"no file", []string{"c.yaml", "a: {b: !file no.txt}\n"}, nil, []string{`c.yaml:1:8: a.b: !file no.txt: no such file`}},
		{"file in UTF-16", []string{"c.yaml", "a: {b: !file no.txt}\n", "no.txt", "\xff\xfea\x00"}, nil, []string{`c.yaml:1:8: a.b: !file no.txt: is text in UTF-16: convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW`}},
		{"file that is a pointer", []string{"c.yaml", "a: {b: !file no.txt}\n", "no.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}, nil, []string{`c.yaml:1:8: a.b: !file no.txt: is a pointer of Git LFS, not the file itself: fetch it: git lfs pull`}},
		{"device", []string{"c.yaml", "a: {b: !file /dev/zero}\n"}, nil, []string{`c.yaml:1:8: a.b: !file /dev/zero: is a pipe or a device, not a file`}},
		{"Latin-1", []string{"c.yaml", "a: {b: !file no.txt}\n", "no.txt", "one\ncaf\xe9"}, nil, []string{`c.yaml:1:8: a.b: !file no.txt: line 2, column 4: not valid UTF-8: if the file is Latin-1 or Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW`}},
		{"file without path", []string{"c.yaml", "a: !file\nb: 1\n"}, nil, []string{`c.yaml:1:4: a: !file wants the path of a text file after it`}},
		{"folder as file", []string{"c.yaml", "a: !file d\n", "d/x", ""}, nil, []string{`c.yaml:1:4: a: !file d: is a folder, not a file`}},
		{"reference", []string{"c.yaml", "name: x\na: 'q ${nmae}'\nb: '${a}'\n"}, nil, []string{
			`c.yaml:2:7: a: ${nmae} refers to nothing; write \${ for the text (did you mean "name"?)`}},
		{"reference to a param", []string{"c.yaml", "params: {rounds: 1}\na: ${round}\n"}, nil, []string{
			`c.yaml:2:4: a: ${round} refers to nothing; write \${ for the text (did you mean "rounds"?)`}},
		{"cycle", []string{"c.yaml", "a: ${b}\nb: 'x${a}'\n"}, nil, []string{`c.yaml:1:4: a: refers to itself: a -> b -> a`}},
		{"cycle around", []string{"c.yaml", "a: {b: '${a}'}\n"}, nil, []string{`c.yaml:1:4: a: refers to itself: a -> a.b -> a`}},
		{"unclosed", []string{"c.yaml", "a: 'xy ${b'\n"}, nil, []string{`c.yaml:1:8: a: ${ without its }; write \${ for the text`}},
		{"resolver", []string{"c.yaml", "a: ${now:x}\n"}, nil, []string{`c.yaml:1:4: a: ${now:...} is not known; there is ${env:NAME} and ${key.path}; write \${ for the text`}},
		{"map in a text", []string{"c.yaml", "a: {b: 1}\nc: 'x ${a}'\n"}, nil, []string{`c.yaml:2:7: c: ${a} inside a text is a map; it must be a single value`}},
		{"option", []string{"c.yaml", "defaults:\n  - db: mysqll\n", "db/mysql.yaml", "a: 1"}, nil, []string{
			`c.yaml:2:9: defaults.db: there is no option mysqll (did you mean "mysql"?)`}},
		{"option of the command line", []string{"c.yaml", "defaults: [{db: mysql}]\n", "db/mysql.yaml", "a: 1"}, []string{"db=x"}, []string{
			`command line: db=...: defaults.db: there is no option x; there are: mysql`}},
		{"must choose", []string{"c.yaml", "defaults: [{db: '???'}]\n", "db/a.yaml", "", "db/b.yaml", ""}, nil, []string{
			`c.yaml:1:17: defaults.db: choose one with db=OPTION; there are: a, b`}},
		{"no config to include", []string{"c.yaml", "defaults: [base]\n"}, nil, []string{`c.yaml:1:12: defaults: there is no file base.yaml`}},
		{"another config to include", []string{"c.yaml", "defaults: [bse]\n", "base.yaml", ""}, nil, []string{`c.yaml:1:12: defaults: there is no file bse.yaml (did you mean "base"?)`}},
		{"any config to include", []string{"c.yaml", "defaults: [x]\n", "base.yaml", ""}, nil, []string{`c.yaml:1:12: defaults: there is no file x.yaml; there are: base`}},
		{"folder without a choice", []string{"c.yaml", "defaults: [db]\n", "db/a.yaml", "", "db/b.yaml", ""}, nil, []string{
			`c.yaml:1:12: defaults: there is no file db.yaml; db is a folder to choose from: write db: OPTION; there are: a, b`}},
		{"no such folder", []string{"c.yaml", "defaults: [{bd: a}]\n", "db/a.yaml", ""}, nil, []string{
			`c.yaml:1:17: defaults.bd: there is no folder bd with .yaml files, to choose from (did you mean "db"?)`}},
		{"no such folder, to choose from", []string{"c.yaml", "defaults: [{models: '???'}]\n", "db/a.yaml", ""}, nil, []string{
			`c.yaml:1:21: defaults.models: there is no folder models with .yaml files, to choose from; there are: db`}},
		{"choice in quotes", []string{"c.yaml", "defaults: ['db: a']\n", "db/a.yaml", ""}, nil, []string{
			`c.yaml:1:12: defaults: there is no file db: a.yaml; a choice is written db: a, without quotes`}},
		{"choice as on the command line", []string{"c.yaml", "defaults: [db=a]\n", "db/a.yaml", ""}, nil, []string{
			`c.yaml:1:12: defaults: there is no file db=a.yaml; a choice is written db: a, without quotes`}},
		{"no list", []string{"c.yaml", "defaults: {db: a}\n", "db/a.yaml", ""}, nil, []string{
			`c.yaml:1:11: defaults: expected a list, got a map; write each entry on a line of its own, behind a dash: - group: option`}},
		{"files in a circle", []string{"c.yaml", "defaults: [a]\n", "a.yaml", "defaults: [b]\n", "b.yaml", "defaults: [a]\n"}, nil, []string{
			`b.yaml:1:12: defaults: files include one another: a -> b -> a`}},
		{"config includes itself", []string{"c.yaml", "defaults: [c]\n"}, nil, []string{`c.yaml:1:12: defaults: files include one another: c -> c`}},
		{"override of nothing", []string{"c.yaml", "defaults: [{override db: x}]\n"}, nil, []string{`c.yaml:1:13: defaults.db: no defaults list has a group to override here`}},
		{"error in an option", []string{"c.yaml", "defaults: [{db: x}]\n", "db/x.yaml", "a: {\n"}, nil, []string{`db/x.yaml:1:4: not valid YAML: could not find flow mapping end token '}'`}},
		{"group not in defaults", []string{"c.yaml", "name: x\n", "db/x.yaml", "a: 1\n"}, []string{"db=x"}, []string{
			`command line: db=...: no defaults list has this group; write +db=x to add it`}},
		{"unknown key", []string{"c.yaml", "dataset: {path: x}\n"}, []string{"dataset.pth=x", "seed=1", "zzz=1"}, []string{
			`command line: dataset.pth=...: no such key (did you mean "dataset.path"?)`,
			`command line: zzz=1: no such key; write +zzz=... to add it`}},
		{"unknown name", []string{"c.yaml", "models: {teacher: {path: x}}\n"}, []string{"models.techer.path=x"}, []string{
			`command line: models.techer.path=...: no such key (did you mean "models.teacher.path"?)`}},
		{"key of a part", []string{"c.yaml", "models: {m: {path: x}}\nroles: {say: {chat: {}}}\n"}, []string{"concurency=3", "pth=y"}, []string{
			`command line: concurency=3: no such key (did you mean "roles.say.concurrency"?)`,
			`command line: pth=...: no such key (did you mean "models.m.path"?)`}},
		{"unknown param", []string{"c.yaml", "params: {rounds: 1}\n"}, []string{"ronds=x"}, []string{
			`command line: ronds=...: no such key (did you mean "rounds"?)`}},
		{"add what is there", []string{"c.yaml", "seed: 1\n"}, []string{"+seed=2"}, []string{`command line: +seed=2: is there already; write seed=... to change it`}},
		{"a key of a map by its name alone", []string{"c.yaml", "dataset: {path: x}\n"}, []string{"limit=3"}, []string{`command line: limit=3: no such key (did you mean "dataset.limit"?)`}},
		{"delete what is not", []string{"c.yaml", "seed: 1\n"}, []string{"~sed"}, []string{`command line: ~sed: no such key, so it cannot be deleted (did you mean "seed"?)`}},
		{"delete another value", []string{"c.yaml", "seed: 1\n"}, []string{"~seed=2"}, []string{`command line: ~seed=2: is not 2, so it is not deleted`}},
		{"into a scalar", []string{"c.yaml", "seed: 1\n"}, []string{"+seed.x=2"}, []string{`command line: +seed.x=2: seed is a whole number; it has no keys`}},
		{"group that is chosen", []string{"c.yaml", "defaults: [{db: a}, _self_]\n", "db/a.yaml", "x: 1\n", "db/b.yaml", "x: 2\n"}, []string{"+db=b"}, []string{
			`command line: +db=...: the group is chosen already, in c.yaml:1; write db=b to choose another option`}},
		{"group that is chosen twice", []string{"c.yaml", "seed: 1\n", "db/a.yaml", "name: a\n", "db/b.yaml", "name: b\n"}, []string{"+db=b", "+db=a"}, []string{
			`command line: +db=...: the group is chosen already; write db=b to choose another option`}},
		{"template without quotes", []string{"c.yaml", "a:\n  prompt: {{ item.q }}\n"}, nil, []string{`c.yaml:2:12: not valid YAML: put a template in quotes: "{{ ... }}"`}},
		{"template without quotes in a map", []string{"c.yaml", "a: {x: 1, prompt: {{ item.q }}}\n"}, nil, []string{`c.yaml:1:20: not valid YAML: put a template in quotes: "{{ ... }}"`}},
		{"template without quotes in a list", []string{"c.yaml", "a:\n  - {{ item.q }}\n"}, nil, []string{`c.yaml:2:6: not valid YAML: put a template in quotes: "{{ ... }}"`}},
		{"expression without quotes in a map", []string{"c.yaml", "a: {when: last.text contains \"[bye]\" or true, to: x}\n"}, nil, []string{
			`c.yaml:1:36: not valid YAML: could not find end character of double-quoted text; inside { } put an expression that has a comma, a quote or a bracket in it in quotes`}},
		{"expression half in quotes", []string{"c.yaml", "a: {x: \"item.a\" + \"b\"}\n"}, nil, []string{
			`c.yaml:1:17: not valid YAML: ',' or '}' must be specified; inside { } put an expression that has a comma, a quote or a bracket in it in quotes`}},
		{"tag without quotes", []string{"c.yaml", "a: {% if x %}b{% endif %}\n"}, nil, []string{`c.yaml:1:5: not valid YAML: put a template in quotes: "{{ ... }}"`}},
		{"argument that is a secret", []string{"c.yaml", "seed: 1\n"}, []string{"+seed.key=sk-secret"}, []string{`command line: +seed.key=...: seed is a whole number; it has no keys`}},
		{"no override", []string{"c.yaml", "seed: 1\n"}, []string{"seed", "=1", "a b=1", "--x=1", "seed=[1", "seed={a: 1, a: 2}", `seed=["\q"]`, "seed=[1] x"}, []string{
			`command line: "seed" has no value; write seed=value`,
			`command line: "" is not a key; a key is names with dots between them`,
			`command line: "a b" is not a key; a key is names with dots between them`,
			`command line: --x=1: no such key; write +--x=... to add it`,
			`command line: seed=...: character 8: expected , or ] in the list; quote a text that begins with a bracket`,
			`command line: seed=...: character 13: key "a" is given twice; quote a text that begins with a bracket`,
			`command line: seed=...: character 9: \q is not an escape; write \\ for a backslash; quote a text that begins with a bracket`,
			`command line: seed=...: character 10: unexpected "x" behind the value`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(t, tt.files...)
			_, err := config.Load(spec.Run{}, tt.files[0], tt.overrides)
			if tt.name == "no override" { // errors of the first stage come alone
				tt.want = append(tt.want[:3:3], tt.want[4:]...)
			}
			if diff := cmp.Diff(tt.want, lines(err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var errs config.Errors
			if !errors.As(err, &errs) {
				t.Errorf("got a %T, want Errors", err)
			}
		})
	}
}

func TestLoadPath(t *testing.T) {
	write(t, "a/config.yaml", "name: a\n", "b/x.yaml", "name: b\n", "run.yaml", "name: r\n", "big.jsonl", strings.Repeat("x", 5<<20))
	for path, want := range map[string]string{"a": "a", "a/config.yaml": "a", "run.yaml": "run", "./run.yaml": "run"} {
		tree, err := config.Load(spec.Run{}, path, nil)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if got := tree.Name(); got != want {
			t.Errorf("%s: got name %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"b":         `b: is a folder without config.yaml; it has b/x.yaml`,
		"run":       `run: no such config; give a YAML file, or a folder that holds config.yaml (did you mean "run.yaml"?)`,
		"rum.yaml":  `rum.yaml: no such config; give a YAML file, or a folder that holds config.yaml (did you mean "run.yaml"?)`,
		"q":         `q: no such config; give a YAML file, or a folder that holds config.yaml`,
		"big.jsonl": `big.jsonl: has 5242880 bytes, too many for a config (at most 4194304)`,
	} {
		if _, err := config.Load(spec.Run{}, path, nil); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

func TestBombs(t *testing.T) {
	var yaml, refs, texts strings.Builder
	yaml.WriteString("a0: &a0 [x, x]\n")
	refs.WriteString("a0: [x, x]\n")
	texts.WriteString("a0: xxxxxxxxxxxxxxxxxxxxxxxx\n")
	for i, prev := range strings.Split("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25", " ") {
		n := string("a") + []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20", "21", "22", "23", "24", "25", "26"}[i]
		yaml.WriteString(n + ": &" + n + " [*a" + prev + ", *a" + prev + "]\n")
		refs.WriteString(n + ": ['${a" + prev + "}', '${a" + prev + "}']\n")
		texts.WriteString(n + ": '${a" + prev + "}${a" + prev + "}'\n")
	}
	write(t, "yaml.yaml", yaml.String(), "refs.yaml", refs.String(), "texts.yaml", texts.String())
	for _, f := range []string{"yaml.yaml", "refs.yaml", "texts.yaml"} {
		if _, err := config.Load(spec.Run{}, f, nil); err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%s: got %v, want an error", f, err)
		}
	}
}

func TestFileTag(t *testing.T) {
	dir := write(t, "sub/config.yaml", "params: {p: prompts}\na: !file prompts/a.txt\nb: !file ${p}/a.txt\n", "sub/prompts/a.txt", "\xef\xbb\xbfL ${x}\r\nM\n", "here.txt", "here")
	tree, err := config.Load(spec.Run{}, "sub", []string{"+c=!file here.txt", "++params.d=!file " + filepath.Join(dir, "here.txt")})
	if err != nil {
		t.Fatal(err)
	}
	want := m{"params": m{"p": "prompts", "c": "here", "d": "here"}, "a": "L ${x}\nM\n", "b": "L ${x}\nM\n"}
	if diff := cmp.Diff(any(want), plain(t, tree)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.WriteFile("again.yaml", tree.YAML(false), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := config.Load(spec.Run{}, "again.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(want), plain(t, again)); diff != "" {
		t.Errorf("printed and loaded (-want +got):\n%s\n%s", diff, tree.YAML(false))
	}
}
