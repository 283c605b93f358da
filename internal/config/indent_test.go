package config_test

import (
	"slices"
	"strings"
	"testing"

	"matrix/internal/config"
	"matrix/spec"
)

// Wrong indentation is called that, with the line.
func TestIndentation(t *testing.T) {
	const head = "name: n\nflow: [a]\ndataset: {path: d.jsonl}\n" // three lines
	for _, c := range []struct{ name, yaml, want string }{
		{"further in than the key before", "roles:\n  a:\n    chat:\n      model: m\n       prompt: hi\n",
			"config.yaml:8:8: not valid YAML: wrong indentation: line 8 stands further in than line 7, which has a value already"},
		{"between two maps", "roles:\n  a:\n    chat:\n      model: m\n     prompt: hi\n",
			"config.yaml:8:6: not valid YAML: wrong indentation: line 8 begins in column 6, and the maps that are open above it in columns 1, 3, 5, 7"},
		{"a text that is not below its key", "roles:\n  a:\n    chat:\n      prompt: |\n      Hello\n",
			"config.yaml:8:7: not valid YAML: wrong indentation: the text that line 7 announces stands further in than its key"},
		{"a colon in a text", "roles:\n  a: {}\nname2: Rank: x\n", `put the text in quotes, since it has ": " in it`},
		{"beside an empty key", "roles:\n  a:\nlimits:\nrounds: 3\n",
			"config.yaml:7:1: rounds: unknown key"},
		{"beside an empty key, told", "roles:\n  a:\nlimits:\nrounds: 3\n",
			"wrong indentation? limits is empty, and line 7 stands beside it: what belongs to it stands further in"},
		{"an empty key that is meant", "roles: {a: {}}\nlimits:\nmetrics: {}\n", ""},
	} {
		write(t, "config.yaml", head+c.yaml)
		tree, err := config.Load(spec.Run{}, "config.yaml", nil)
		if err == nil {
			var run spec.Run
			err = tree.Decode(&run)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// What is a reference to the environment elsewhere is not a key here.
func TestNotReplaced(t *testing.T) {
	for value, want := range map[string]string{
		"$OPENAI_API_KEY":             "models.m.api_key: would be sent as the text it is: write ${env:OPENAI_API_KEY} for the environment variable OPENAI_API_KEY",
		"os.environ/KEY":              "write ${env:KEY}",
		`"%KEY%"`:                     "write ${env:KEY}",
		"sk-1234$KEY":                 "",
		"$ecret-with-a-dollar":        "",
		`"${OPENAI_API_KEY}"`:         "${OPENAI_API_KEY} refers to nothing; write ${env:OPENAI_API_KEY} for the environment variable",
		`"${env:NO_SUCH_VARIABLE,x}"`: "",
	} {
		write(t, "config.yaml", "dataset: {path: d}\nroles: {}\nflow: a\nmodels: {m: {base_url: h, api_key: "+value+"}}\n")
		tree, err := config.Load(spec.Run{}, "config.yaml", nil)
		if err == nil {
			var run spec.Run
			if err = tree.Decode(&run); err == nil {
				var o openAI
				err = run.Models["m"].Decode(&o)
			}
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", value, got, want)
		}
	}
}

// A change of what came from the environment is seen between a printout and the
// tree, though the printout does not show it.
func TestMarks(t *testing.T) {
	const text = `dataset: {path: "${env:CONFIG_TEST_DIR}/d.jsonl", limit: "${env:CONFIG_TEST_LIMIT}"}
roles: {}
flow: a
params: {k: "${env:CONFIG_TEST_MODEL}"}
models: {m: {base_url: h, api_key: "${env:CONFIG_TEST_KEY}"}}
`
	write(t, "config.yaml", text)
	set := func(model, key string) *config.Tree {
		t.Setenv("CONFIG_TEST_DIR", "/data")
		t.Setenv("CONFIG_TEST_LIMIT", "7")
		t.Setenv("CONFIG_TEST_MODEL", model)
		t.Setenv("CONFIG_TEST_KEY", key)
		tree := load(t)
		decodeAll(t, tree)
		return tree
	}
	before := set("gpt-4o", "sk-before")
	printed := string(before.YAML(true)) + string(before.Marks())
	for _, text := range []string{"gpt-4o", "sk-before"} {
		if strings.Contains(printed, text) {
			t.Errorf("the printout shows %s:\n%s", text, printed)
		}
	}
	for _, text := range []string{"path: /data/d.jsonl", `limit: "${env:CONFIG_TEST_LIMIT}"`, `k: "${env:CONFIG_TEST_MODEL}"`, "# from the environment: params.k "} {
		if !strings.Contains(printed, text) {
			t.Errorf("the printout has no %s:\n%s", text, printed)
		}
	}
	write(t, "config.yaml", text, "saved.yaml", printed)
	saved, err := config.Load(spec.Run{}, "saved.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	now := set("gpt-4o", "sk-after")
	if got := config.Diff(saved, now, ""); got != nil {
		t.Errorf("got the differences %v, want none: a key may change", got)
	}
	now = set("gpt-5", "sk-after")
	if got := config.Diff(saved, now, ""); len(got) != 1 || got[0] != "params.k" {
		t.Errorf("got the differences %v, want params.k", got)
	}
}

// What the environment leaves empty is shown as its reference, too, and is no
// difference to itself: neither in a new printout nor in one that has null there.
func TestMarksOfNothing(t *testing.T) {
	const text = `roles: {}
flow: a
dataset: {path: /data/d.jsonl}
params: {k: "${env:CONFIG_TEST_NONE,}", null: "${env:CONFIG_TEST_NULL}", t: 1}
models: {m: {base_url: h, api_key: "${env:CONFIG_TEST_NONE,sk-default}"}}
`
	t.Setenv("CONFIG_TEST_NULL", "null")
	write(t, "config.yaml", text)
	set := func(none string) *config.Tree {
		t.Setenv("CONFIG_TEST_NONE", none)
		tree := load(t)
		decodeAll(t, tree)
		return tree
	}
	before := set("")
	printed := string(before.YAML(true)) + string(before.Marks())
	for _, text := range []string{`k: "${env:CONFIG_TEST_NONE,}"`, `null": "${env:CONFIG_TEST_NULL}"`, `api_key: "${env:CONFIG_TEST_NONE,***}"`} {
		if !strings.Contains(printed, text) {
			t.Errorf("the printout has no %s:\n%s", text, printed)
		}
	}
	if strings.Contains(printed, "sk-default") {
		t.Errorf("the printout shows the default of a secret:\n%s", printed)
	}
	older := strings.NewReplacer(`k: "${env:CONFIG_TEST_NONE,}"`, "k: null", `"${env:CONFIG_TEST_NULL}"`, "null").Replace(printed)
	for name, text := range map[string]string{"a printout": printed, "one with null": older} {
		write(t, "saved.yaml", text)
		saved, err := config.Load(spec.Run{}, "saved.yaml", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := config.Diff(saved, before, ""); got != nil {
			t.Errorf("%s: got the differences %v, want none", name, got)
		}
	}
	write(t, "config.yaml", text)
	now := set("something")
	write(t, "saved.yaml", older)
	saved, err := config.Load(spec.Run{}, "saved.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Diff(saved, now, ""); !slices.Equal(got, []string{"params.k"}) {
		t.Errorf("got the differences %v, want params.k", got)
	}
}
