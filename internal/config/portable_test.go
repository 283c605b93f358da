package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ported is a config with a value of each kind that Portable treats apart.
type ported struct {
	Name   string            `yaml:"name"`
	Text   string            `yaml:"text"`
	Number float64           `yaml:"number"`
	Key    string            `yaml:"key" secret:"true"`
	Body   map[string]any    `yaml:"body" secret:"named"`
	Head   map[string]string `yaml:"head" secret:"true"`
	File   string            `yaml:"file" path:"true"`
	Out    string            `yaml:"out" path:"here"`
	List   []string          `yaml:"list" path:"true"`
	Sub    map[string]ported `yaml:"sub"`
}

// port loads a config, decodes it, prints it for another machine, and loads that in
// another folder with another environment.
func port(t *testing.T, text string, edits map[string]any, there map[string]string) (printed string, withheld []string, got ported, err error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	tree, err := Load(ported{}, filepath.Join(dir, "c.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Decode(&ported{}); err != nil {
		t.Fatal(err)
	}
	out, withheld, err := tree.Portable(edits)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range there {
		t.Setenv(name, value)
		if value == "" {
			os.Unsetenv(name)
		}
	}
	other := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(other, out, 0o666); err != nil {
		t.Fatal(err)
	}
	tree, err = Load(ported{}, other, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	err = tree.Decode(&got)
	return strings.ReplaceAll(string(out), dir, "DIR"), withheld, got, err
}

func TestPortable(t *testing.T) {
	here := map[string]string{"URL": "http://here", "WORD": "here", "CRED": "0123456789abcdef", "MY_TOKEN": "fedcba9876543210", "NUM": "2.5", "WITH": "https://user:password@here/v1"}
	for _, tt := range []struct {
		name     string
		text     string
		there    map[string]string // variables that are others there; "": not set
		want     string            // of what is printed
		withheld string
		err      string // of decoding it there
	}{
		{"a text", `text: "a \\${b} # c"`, nil, `text: 'a \${b} # c'`, "", ""},
		{"a value of the environment", "text: ${env:URL}/v1", map[string]string{"URL": ""}, `text: "http://here/v1"`, "", ""},
		{"a number of the environment", "number: ${env:NUM,1}", map[string]string{"NUM": "7"}, "number: 2.5", "", ""},
		{"what is not set here", "text: ${env:NONE,default}", map[string]string{"NONE": "there"}, "text: default", "", ""},
		{"a secret", "key: ${env:CRED}", map[string]string{"CRED": "there"}, `key: "${env:CRED}"`, "", ""},
		{"a secret that is not there", "key: ${env:CRED}", map[string]string{"CRED": ""}, `key: "${env:CRED}"`, "", "environment variable CRED is not set"},
		{"a secret with a default", "key: ${env:CRED,EMPTY}", map[string]string{"CRED": ""}, `key: "${env:CRED}"`, "", "environment variable CRED is not set"},
		{"a secret that is not set here", "key: ${env:NONE,EMPTY}", nil, `key: "${env:NONE,EMPTY}"`, "", ""},
		{"a secret that may be absent", "key: ${env:NONE,}", map[string]string{"NONE": "there"}, `key: "${env:NONE,}"`, "", ""},
		{"a secret as a default", "key: ${env:NONE,sk-a-long-secret}", nil, `key: "${env:NONE}"`, "", "environment variable NONE is not set"},
		{"a secret with a scheme", "head: {Authorization: 'Bearer ${env:CRED}'}", nil, `Authorization: "Bearer ${env:CRED}"`, "", ""},
		{"a secret with more", "head: {X: 'v1-${env:CRED}'}", nil, `X: "v1-${env:CRED}"`, "", ""},
		{"a secret with much more", "head: {X: 'a-long-text-${env:CRED}'}", nil, `X: "***"`, "head.X", ""},
		{"a written secret", "key: sk-a-long-secret", nil, `key: "***"`, "key", ""},
		{"a short word for a secret", "key: EMPTY", nil, "key: EMPTY", "", ""},
		{"a written secret elsewhere", "{key: sk-a-long-secret, text: it is sk-a-long-secret}", nil, `text: "***"`, "key text", ""},
		{"a secret of the environment elsewhere", "{key: '${env:CRED}', text: 'it is ${env:CRED}'}", nil, `text: "it is ${env:CRED}"`, "", ""},
		{"written out elsewhere", "{key: '${env:CRED}', text: it is 0123456789abcdef}", nil, `text: "***"`, "text", ""},
		{"a variable with the name of a secret", "text: ${env:MY_TOKEN}", nil, `text: "${env:MY_TOKEN}"`, "", ""},
		{"its value", "text: it is fedcba9876543210.", nil, `text: "***"`, "text", ""},
		{"a value of no type", "body: {a: '${env:WORD}', b: [1, x], c: '${env:NONE,d}'}", nil, `a: "${env:WORD}"`, "", ""},
		{"a value of no type that is not there", "body: {a: '${env:WORD,d}'}", map[string]string{"WORD": ""}, `a: "${env:WORD}"`, "", "environment variable WORD is not set"},
		{"a named secret", "body: {vendor_key: a-long-secret}", nil, `vendor_key: "***"`, "body.vendor_key", ""},
		{"a password in a URL", "text: https://user:password@here/v1", nil, `text: "***"`, "text", ""},
		{"a password in a URL of the environment", "text: ${env:WITH}", nil, `text: "${env:WITH}"`, "", ""},
		{"a token in prose", "text: see https://a.example/?token=1234567890 for more", nil, "token=1234567890 for more", "", ""},
		{"a path", "{file: data/x, out: out, list: [a, /b]}", nil, "file: DIR/data/x", "", ""},
		{"a map in a map", "sub: {a.b: {key: sk-a-long-secret, file: x}}", nil, `key: "***"`, "sub.a.b.key", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for name, value := range here {
				t.Setenv(name, value)
			}
			os.Unsetenv("NONE")
			printed, withheld, _, err := port(t, tt.text, nil, tt.there)
			if !strings.Contains(printed, tt.want) || strings.Join(withheld, " ") != tt.withheld {
				t.Errorf("got\n%s\nwithheld %q; want %s and %q", printed, withheld, tt.want, tt.withheld)
			}
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("there: got %v, want %q", err, tt.err)
			}
			for _, secret := range []string{"0123456789abcdef", "sk-a-long-secret", "fedcba9876543210", "user:password"} {
				if strings.Contains(printed, secret) {
					t.Errorf("has %s:\n%s", secret, printed)
				}
			}
		})
	}
}

func TestPortableEdits(t *testing.T) {
	printed, _, got, err := port(t, "{name: a, file: x, list: one, sub: {m: {text: t, file: y, list: [a, b]}}}", map[string]any{
		"name": "b ${c}", "file": "files/x", "list.0": "files/one", "sub.m.text": nil, "sub.m.file": "files/y", "sub.m.list.1": "files/b", "sub.m.body": []map[string]any{{"k": 1}}, "key": nil,
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "sub.m.body") { // a map is wanted, which shows that it is there
		t.Errorf("got %v", err)
	}
	m := got.Sub["m"]
	if got.Name != "b ${c}" || m.Text != "" || !strings.HasSuffix(got.File, "/files/x") || !strings.HasSuffix(m.File, "/files/y") || len(m.List) != 2 ||
		!strings.HasSuffix(m.List[1], "/files/b") || !strings.HasSuffix(got.List[0], "/files/one") {
		t.Errorf("got %+v of\n%s", got, printed)
	}
	tree := &Tree{root: newNode(Map, &source{}, Pos{})}
	if _, _, err := tree.Portable(map[string]any{"a.b": 1}); err == nil {
		t.Error("an edit in a map that is not there is no error")
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte("{file: x, out: /o, list: [a, 'http://b'], text: t, sub: {m: {list: one}}}"), 0o666); err != nil {
		t.Fatal(err)
	}
	tree, err := Load(ported{}, filepath.Join(dir, "c.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Decode(&ported{}); err != nil {
		t.Fatal(err)
	}
	want := []Place{{"file", dir + "/x", false}, {"out", "/o", true}, {"list.0", dir + "/a", false}, {"list.1", "http://b", false}, {"sub.m.list", dir + "/one", false}}
	if got := tree.Places(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
