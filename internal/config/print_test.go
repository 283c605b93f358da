package config_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"matrix/internal/config"
	"matrix/spec"
)

func TestHide(t *testing.T) {
	for word, want := range map[string]string{
		"conf.yaml":                           "conf.yaml",
		"live=50":                             "live=50",
		"models.m.api_key=sk-1":               "models.m.api_key=***",
		"++models.m.headers.x=y":              "++models.m.headers.x=***",
		"models.m.api_key=${env:KEY}":         "models.m.api_key=${env:KEY}",
		"~models.m.api_key":                   "~models.m.api_key",
		"models.m.base_url=http://u:p@h/?a=b": "models.m.base_url=http://***:***@h/?a=b",
		"http://h/v1?key=k":                   "http://h/v1?key=***",
	} {
		if got := config.Hide(word); got != want {
			t.Errorf("%s: got %s, want %s", word, got, want)
		}
	}
}

// TestSecretsAreNoPlaces: the paths of files and folders are shown, whatever variable
// holds them.
func TestSecretsAreNoPlaces(t *testing.T) {
	dir := write(t, "config.yaml", "dataset: {path: rows.jsonl}\nroles: {a: {command: {run: [cat], env: {DATA: '${env:WHERE}', SAY: '${env:WORDS}'}}}}\nflow: [a]\n")
	t.Setenv("PWD", dir)
	t.Setenv("DB_PWD", "correct horse battery")
	t.Setenv("PLACE_KEY", dir)
	t.Setenv("WHERE", dir)
	t.Setenv("WORDS", "staple of the environment")
	tree := load(t)
	var r spec.Run
	if err := tree.Decode(&r); err != nil {
		t.Fatal(err)
	}
	var command struct {
		Env map[string]string `yaml:"env" secret:"named"`
		Run []string          `yaml:"run"`
	}
	if err := tree.Root().Get("roles").Get("a").Get("command").Decode(&command); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, s := range tree.Secrets() {
		got[s.Text] = true
	}
	for text, want := range map[string]bool{dir: false, "correct horse battery": true, "staple of the environment": true} {
		if got[text] != want {
			t.Errorf("%q is a secret: got %v, want %v", text, got[text], want)
		}
	}
}

func TestRedact(t *testing.T) {
	t.Setenv("CONFIG_TEST_KEY", "sk-verysecret")
	t.Setenv("CONFIG_TEST_URL", "http://user:pa55@h/v1?api-version=1&code=abc&subscription-Key=def&top=2#k=v")
	dir := write(t, "config.yaml", `name: n
dataset: {path: d.jsonl}
params: {k: "${env:CONFIG_TEST_KEY}", copy: "is sk-verysecret here", s: hushhush}
models:
  a: {base_url: "${env:CONFIG_TEST_URL}", api_key: "${env:CONFIG_TEST_KEY}", headers: {Authorization: "Bearer ${env:CONFIG_TEST_KEY}", X: plain}}
  b: {base_url: h, api_key: "${params.k}", hush: hushhush}
  c: {base_url: h, api_key: "${env:CONFIG_TEST_NO,sk-fallback}", file: f.txt}
  d: {base_url: h, api_key: literal-key, hush: "x${env:CONFIG_TEST_KEY}"}
roles: {x: {chat: {prompt: '\${x}'}}}
flow: [x]
`)
	tree := load(t)
	decodeAll(t, tree)
	want := strings.ReplaceAll(`name: n
dataset:
  path: DIR/d.jsonl
params:
  k: "${env:CONFIG_TEST_KEY}"
  copy: is *** here
  s: "***"
models:
  a:
    base_url: "${env:CONFIG_TEST_URL}"
    api_key: "${env:CONFIG_TEST_KEY}"
    headers:
      Authorization: "Bearer ${env:CONFIG_TEST_KEY}"
      X: "***"
  b:
    base_url: h
    api_key: "${env:CONFIG_TEST_KEY}"
    hush: "***"
  c:
    base_url: h
    api_key: "${env:CONFIG_TEST_NO,***}"
    file: DIR/f.txt
  d:
    base_url: h
    api_key: "***"
    hush: "***${env:CONFIG_TEST_KEY}"
roles:
  x:
    chat:
      prompt: '\${x}'
flow:
  - x
`, "DIR", dir)
	got := string(tree.YAML(true))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.MkdirAll("out", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("out/config.yaml", tree.YAML(true), 0o644); err != nil {
		t.Fatal(err)
	}
	saved, err := config.Load(spec.Run{}, "out", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Diff(tree, saved, ""); got != nil {
		t.Errorf("got differences %v with its own printout", got)
	}
	if got := config.Diff(saved, tree, ""); got != nil {
		t.Errorf("got differences %v from its own printout", got)
	}
	changed := load(t, "models.a.api_key=another", "models.b.base_url=g", "+models.a.timeout=5", "flow=[x, x]", "name=m", "~params.copy")
	decodeAll(t, changed)
	if diff := cmp.Diff([]string{"name", "params.copy", "models.a.timeout", "models.b.base_url", "flow"}, config.Diff(changed, saved, ""), cmp.Transformer("set", set)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func set(in []string) map[string]bool {
	out := map[string]bool{}
	for _, s := range in {
		out[s] = true
	}
	return out
}

func decodeAll(t testing.TB, tree *config.Tree) spec.Run {
	t.Helper()
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		t.Fatal(err)
	}
	for _, s := range run.Models {
		var o openAI
		if err := s.Decode(&o); err != nil {
			t.Fatal(err)
		}
	}
	return run
}

// What is printed and loaded again is the same, whatever texts it holds.
func TestPrintRoundTrip(t *testing.T) {
	write(t)
	text := rapid.OneOf(
		rapid.StringOfN(rapid.SampledFrom([]rune("ab \n\t'\"\\:#-{}[]${&*!|>%@`,?é\u2028\U0001F600.0x~\r")), 0, 12, -1),
		rapid.String(),
		rapid.SampledFrom([]string{"null", "yes", "12", "1e3", ".inf", "${x}", `\${x}`, "<<", "a: b", "a #b", "- a", "---", "a\n\n\nb\n", " a\nb", "a \nb", "true", "0x1", "!file x", "# x"}))
	rapid.Check(t, func(t *rapid.T) {
		var value func(depth int) any
		value = func(depth int) any {
			switch k := rapid.IntRange(0, 6).Draw(t, "kind"); {
			case k == 0 && depth < 4:
				out := []any{}
				for range rapid.IntRange(0, 3).Draw(t, "n") {
					out = append(out, value(depth+1))
				}
				return out
			case k == 1 && depth < 4:
				out := map[string]any{}
				for range rapid.IntRange(0, 3).Draw(t, "n") {
					out[text.Draw(t, "key")] = value(depth + 1)
				}
				return out
			case k == 2:
				return rapid.Int().Draw(t, "int")
			case k == 3:
				return rapid.Bool().Draw(t, "bool")
			case k == 4:
				return nil
			}
			return text.Draw(t, "text")
		}
		v := m{"v": value(0)}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		// JSON is YAML, less the references, and less what the YAML library cannot read.
		in := strings.ReplaceAll(string(raw), "${", `\\${`)
		if strings.Contains(in, `\\\\${`) || strings.Contains(in, `\\\${`) {
			t.Skip("backslashes before a reference")
		}
		if err := os.WriteFile("config.yaml", []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		first, err := config.Load(spec.Run{}, "config.yaml", nil)
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		var a, b any
		if err := first.Decode(&a); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("config.yaml", first.YAML(false), 0o644); err != nil {
			t.Fatal(err)
		}
		second, err := config.Load(spec.Run{}, "config.yaml", nil)
		if err != nil {
			t.Fatalf("%q: %v", first.YAML(false), err)
		}
		if err := second.Decode(&b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatalf("printed as %q (-want +got):\n%s", first.YAML(false), diff)
		}
		if d := config.Diff(first, second, ""); d != nil {
			t.Fatalf("printed as %q: got differences %v", first.YAML(false), d)
		}
		portable, withheld, err := first.Portable(nil)
		if err != nil || len(withheld) == 0 && string(portable) != string(first.YAML(false)) {
			t.Fatalf("printed for another machine as %q, withheld %v, %v; want %q", portable, withheld, err, first.YAML(false))
		}
	})
}

var testParts = []config.Part{
	{At: "models.*", Kind: "openai", Default: true, Type: openAI{}, Doc: "A chat endpoint."},
	{At: "models.*", Kind: "scripted", Type: struct {
		Reply string `yaml:"reply" required:"true" doc:"Template | text."`
	}{}},
	{At: "roles.*.chat", Type: struct {
		Model   string `yaml:"model" required:"true"`
		Workers int    `yaml:"workers" free:"true"`
	}{}},
	{At: "roles.*.compute", Type: map[string]string{}},
	{At: "flow", Type: []string{}},
	{At: "flow", Type: struct {
		After map[string]*config.Section `yaml:"after"`
	}{}},
	{At: "flow.after.*", Type: ""},
}

func TestFree(t *testing.T) {
	tree, err := config.LoadText(spec.Run{}, "c", "models: {s: {kind: scripted}, o: {kind: openai}}", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{
		"live": true, "name": false, "roles.x.concurrency": true, "roles.x.attempts": false, "roles.x.chat.workers": true,
		"roles.x.chat.model": false, "models.a.timeout": true, "models.a.base_url": false, "models.a.timeout.x": true,
		"models.o.timeout": true, "models.s.timeout": false, "dataset.path": true, "dataset.path.0": true, "dataset.id": false,
		"flow": false, "no": false, "params.x": false, "roles.x.other.y": false, "roles": false, "flow.after.x": false,
	} {
		if got := tree.Free(key, testParts...); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
}

func TestSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(config.Schema(spec.Run{}, testParts...))))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	const good = "dataset: {path: [a, b]}\nmodels: {t: {base_url: u, timeout: 60s}, s: {kind: scripted, reply: x}}\nroles: {x: {concurrency: 1, chat: {model: t}}, y: {compute: {a: b}}}\nflow: {after: {x: y}}\n"
	for in, want := range map[string]bool{
		good:                               true,
		good + "live: ${n}\n":              true,
		good + "live: many\n":              false,
		good + "nmae: x\n":                 false,
		good + "output: {compress: zst}\n": false,
		"name: x\n":                        false,
		"defaults: [a, {b: c}]\nname: x\n": true,
		strings.Replace(good, "reply", "replly", 1):    false,
		strings.Replace(good, "compute", "compote", 1): false,
		strings.Replace(good, "after", "aftr", 1):      false,
	} {
		if err := os.WriteFile(t.TempDir()+"/c.json", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		v := asJSON(t, in)
		if err := schema.Validate(v); (err == nil) != want {
			t.Errorf("%s: got %v, want valid %v", in, err, want)
		}
	}
}

// asJSON reads YAML without composing or resolving it.
func asJSON(t *testing.T, in string) any {
	t.Helper()
	in = strings.ReplaceAll(in, "${", `\${`)
	in = strings.Replace(in, "defaults:", "later:", 1)
	write(t, "config.yaml", in)
	raw, err := json.Marshal(plain(t, load(t)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.Replace(string(raw), `"later"`, `"defaults"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestReference(t *testing.T) {
	got := string(config.Reference(spec.Run{}, testParts...))
	for _, want := range []string{
		"| `live` | whole number | `1000` | Tasks under way at once. |\n",
		"| `dataset.path` | path or a list of paths | required | File,",
		"| `roles.NAME.attempts` | whole number | `3` | Tries of one step before the task fails. |\n",
		"| `output.compress` | `none`, `gzip`, `zstd` | `none` | none, gzip or zstd. |\n",
		"## `models.NAME`, kind `openai` (the default)\n\nA chat endpoint.\n\n| key |",
		"| `api_key` | text, secret |  |  |\n",
		"| `items[].to` | text |  |  |\n",
		`| Template \| text. |`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the reference has no %q:\n%s", want, got)
		}
	}
}
