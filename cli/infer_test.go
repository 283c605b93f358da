package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"matrix/internal/launch"
	"matrix/internal/rundir"
	"matrix/internal/sim"
)

// simService serves the OpenAI API, and gives its base URL.
func simService(t *testing.T, c sim.Config) (string, *sim.Server) {
	t.Helper()
	if c.Preset == "" {
		c.Preset, c.Latency.Mean = "slots", time.Millisecond
	}
	if c.Replies.Kind == "" {
		c.Replies.Kind = "echo"
	}
	s, err := sim.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.URLs()[0], s
}

// said are the texts of the one turn of each task, by id; those of samples are
// joined by a bar.
func said(t *testing.T, dir, part string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(dir, part, "*.jsonl"))
	for _, f := range files {
		for _, l := range lines(t, f) {
			var x struct {
				ID    string
				Turns []struct {
					Text      string
					Samples   []struct{ Text string }
					ToolCalls []struct{ Name string } `json:"tool_calls"`
				}
				Outcome struct{ Cause string }
			}
			if l == "" {
				continue
			}
			if err := json.Unmarshal([]byte(l), &x); err != nil {
				t.Fatalf("%s: %v", l, err)
			}
			switch {
			case part == rundir.FailedDir:
				all[x.ID] = x.Outcome.Cause
			case len(x.Turns) != 1:
				t.Errorf("%s: got %d turns, want 1", x.ID, len(x.Turns))
			case len(x.Turns[0].Samples) > 0:
				var texts []string
				for _, s := range x.Turns[0].Samples {
					texts = append(texts, s.Text)
				}
				all[x.ID] = strings.Join(texts, "|")
			case len(x.Turns[0].ToolCalls) > 0:
				all[x.ID] = "calls " + x.Turns[0].ToolCalls[0].Name
			default:
				all[x.ID] = x.Turns[0].Text
			}
		}
	}
	return all
}

// Where replies are cut, the failure names the key that takes them as they are, as
// it is typed.
func TestInferCut(t *testing.T) {
	url, _ := simService(t, sim.Config{Replies: sim.Replies{Kind: "template", Template: "one two three four five six seven eight"}})
	t.Chdir(files(t, map[string]string{"rows.jsonl": `{"id":"a","prompt":"A"}`}))
	r := matrixCmd("infer", url, "rows.jsonl", "-o", "out", "--max-tokens", "2").want(t, 1)
	key := "roles.reply.chat.on_length=accept"
	if !strings.Contains(r.out, "max_tokens; raise it, or take such replies as they are: "+key) {
		t.Fatalf("the failure does not name %s:\n%s", key, r.out)
	}
	matrixCmd("infer", url, "rows.jsonl", "-o", "out", "--max-tokens", "2", key, "--accept-changes", "--retry-failed").want(t, 0)
	if got := said(t, "out", rundir.DataDir); len(got) != 1 || got["a"] == "" {
		t.Errorf("got %q, want a reply", got)
	}
}

func TestInfer(t *testing.T) {
	t.Parallel()
	url, _ := simService(t, sim.Config{Replies: sim.Replies{Kind: "template", Template: "{{with .System}}{{.}}: {{end}}{{.Prompt}} #{{len .Messages}}"}})
	const (
		batch = `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"x","messages":[{"role":"user","content":"A"}],"max_tokens":50,"temperature":0,"stream":true}}
{"custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{"model":"x","messages":[{"role":"user","content":"B"}],"tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object"}}}],"tool_choice":"required"}}
{"custom_id":"c","method":"POST","url":"/v1/chat/completions","body":{"model":"x","messages":[{"role":"user","content":"C"}],"temperature":"hot"}}
{"custom_id":"d","method":"POST","url":"/v1/embeddings","body":{"input":"D"}}
{"custom_id":"e","method":"POST","url":"/v1/chat/completions","body":{"model":"x","messages":[{"role":"user","content":"E"}],"n":2,"max_tokens":9}}
{"custom_id":"f","method":"POST","url":"/v1/chat/completions","body":{"model":"x","messages":[{"role":"user","content":"F"}],"top_p":7}}
`
		answered = `{"id":"a","messages":[{"role":"user","content":"A"}]}
{"id":"b","messages":[{"role":"user","content":"B"},{"role":"assistant","content":"x"}]}`
		talks = `{"id":"a","conversations":[{"from":"system","value":"S"},{"from":"human","value":"A"},{"from":"gpt","value":"x"}]}
{"id":"b","conversations":[{"from":"human","value":"B"},{"from":"gpt","value":"x"},{"from":"human","value":"BB"}]}
{"id":"c","conversations":"none"}
`
		image = `{"id":1,"messages":[{"role":"user","content":[{"type":"text","text":"See"},{"type":"image_url","image_url":{"url":"data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="}}]}]}
{"id":2,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"gone.png"}}]}]}
`
	)
	for _, tt := range []struct {
		name, rows   string
		args         []string
		done, failed map[string]string // of failed, a part of the cause
	}{
		{"prompt of the row", `{"id":"a","prompt":"A"}` + "\n" + `{"id":"b","prompt":7}`, nil,
			map[string]string{"a": "A #1", "b": "7 #1"}, nil},
		{"a template", `{"id":"a","q":"A"}`, []string{"--prompt", "Q: {{ item.q }} ${x}", "--system", "S ${y}"},
			map[string]string{"a": "S ${y}: Q: A ${x} #2"}, nil},
		{"to be continued", `{"id":"a","q":"A"}`, []string{"--complete", "{{ item.q }} and"},
			map[string]string{"a": "A and #0"}, nil},
		{"a field with a strange name", `{"id":"a","the \"text\"":"A"}`, []string{"--field", `the "text"`},
			map[string]string{"a": "A #1"}, nil},
		{"a field with messages", `{"id":"a","m":[{"role":"user","content":"A"}]}`, []string{"--field", "m"},
			map[string]string{"a": "A #1"}, nil},
		{"messages as JSON text", `{"id":"a","messages":"[{\"role\": \"user\", \"content\": \"hi\"}]"}` + "\n" + `{"id":"b","messages":[{"role":"user","content":""}]}`, nil,
			map[string]string{"a": "hi #1"}, map[string]string{"b": "messages: there is nothing to reply to"}},
		{"ids of another field", `{"id":"a","name":"x","prompt":"A"}`, []string{"--id", "name"},
			map[string]string{"x": "A #1"}, nil},
		{"several replies", `{"id":"a","prompt":"A"}`, []string{"-n", "3"},
			map[string]string{"a": "A #1|A #1|A #1"}, nil},
		{"so many rows", `{"id":"a","prompt":"A"}` + "\n" + `{"id":"b","prompt":"B"}`, []string{"--limit", "1"},
			map[string]string{"a": "A #1"}, nil},
		{"overrides", `{"id":"a","prompt":"A"}`, []string{"models.model.max_tokens=50", "live=3", "+roles.reply.chat.system=T"},
			map[string]string{"a": "T: A #2"}, nil},
		{"an OpenAI batch", batch, nil,
			map[string]string{"a": "A #1", "b": "calls look", "e": "E #1|E #1"},
			map[string]string{"c": "body.temperature: want a number, got a text", "d": "the batch file asks for /v1/embeddings, and only /v1/chat/completions can be sent", "f": "top_p must be in (0, 1]"}},
		{"ShareGPT, written anew", talks, []string{"--rewrite"},
			map[string]string{"a": "S: A #2", "b": "BB #3"}, map[string]string{"c": "messages: want a list of messages, got a text"}},
		{"ShareGPT, as it is", talks, []string{"--rewrite=false", "--limit", "1"},
			map[string]string{"a": "S: x #3"}, nil},
		{"later rows that have a reply", answered, nil,
			map[string]string{"a": "A #1"},
			map[string]string{"b": "messages: the conversation ends with the assistant's reply: rewrite=true leaves it out and asks for it anew, rewrite=false sends it as it is"}},
		{"later rows that have a reply, written anew", answered, []string{"--rewrite"},
			map[string]string{"a": "A #1", "b": "B #1"}, nil},
		{"images", image, nil,
			map[string]string{"1": "See #1"}, map[string]string{"2": "gone.png: no such file"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := files(t, map[string]string{"rows.jsonl": tt.rows})
			args := append([]string{"infer", url, filepath.Join(dir, "rows.jsonl"), "-o", filepath.Join(dir, "out")}, tt.args...)
			matrixCmd(args...).want(t, 0)
			out := filepath.Join(dir, "out")
			if got := said(t, out, rundir.DataDir); fmt.Sprint(got) != fmt.Sprint(tt.done) {
				t.Errorf("got the replies %q, want %q", got, tt.done)
			}
			failed := said(t, out, rundir.FailedDir)
			if len(failed) != len(tt.failed) {
				t.Errorf("got the failures %q, want %q", failed, tt.failed)
			}
			for id, cause := range tt.failed {
				if !strings.Contains(failed[id], cause) {
					t.Errorf("%s: got the cause %q, want %q", id, failed[id], cause)
				}
			}
			counts(t, out)
		})
	}
}

// What is sent is what the flags and the row say, and a key is not written down.
func TestInferSends(t *testing.T) {
	var bodies []map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b map[string]any
		_ = json.NewDecoder(r.Body).Decode(&b)
		b["key"] = r.Header.Get("Authorization")
		bodies = append(bodies, b)
		fmt.Fprint(w, `{"model":"m","choices":[{"finish_reason":"stop","message":{"content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`)
	}))
	defer s.Close()
	dir := files(t, map[string]string{
		"rows.jsonl":  `{"custom_id":"a","body":{"messages":[{"role":"user","content":"A"}],"top_p":0.5,"max_tokens":7}}` + "\n",
		"config.yaml": "params: {top: 0.9}\nmodels:\n  other: {kind: scripted, reply: never}\n  mine: {base_url: '" + s.URL + "', model: big, api_key: '${env:INFER_TEST_KEY}', top_p: '${params.top}', extra_body: {top_k: 3}}\n",
	})
	t.Setenv("INFER_TEST_KEY", "s3cret")
	out := filepath.Join(dir, "out")
	matrixCmd("infer", dir, filepath.Join(dir, "rows.jsonl"), "--model", "mine", "-o", out, "--max-tokens", "99", "--temperature", "0").want(t, 0)
	if len(bodies) != 1 {
		t.Fatalf("got %d requests, want 1", len(bodies))
	}
	b := bodies[0]
	for key, want := range map[string]any{"model": "big", "top_p": 0.5, "max_tokens": 7.0, "temperature": 0.0, "top_k": 3.0, "key": "Bearer s3cret", "stream": nil} {
		if b[key] != want {
			t.Errorf("%s: got %v, want %v", key, b[key], want)
		}
	}
	if text := read(t, out, rundir.ConfigFile); strings.Contains(text, "s3cret") || !strings.Contains(text, "INFER_TEST_KEY") {
		t.Errorf("the key stands in the config of the run:\n%s", text)
	}
	if text := read(t, dir, "config.yaml"); !strings.Contains(text, "other") {
		t.Errorf("the config has changed:\n%s", text)
	}
}

func TestInferErrors(t *testing.T) {
	url, s := simService(t, sim.Config{})
	const ends = `{"messages":[{"role":"user","content":"A"},{"role":"assistant","content":"B"}]}`
	for _, tt := range []struct {
		name, rows string
		args       []string // MODEL and INPUT are url and rows.jsonl where they are left out
		want       string
	}{
		{"no input", "", []string{url}, "needs a MODEL and an INPUT"},
		{"an address that looks like an override", "{}", []string{url + "?a=b", "c=d"}, "needs a MODEL and an INPUT"},
		{"an override as input", "", []string{url, "live=3"}, "needs a MODEL and an INPUT"},
		{"no such file", "", []string{url, "gone.jsonl"}, "gone.jsonl: no such file"},
		{"no rows", "", nil, "the dataset has no rows"},
		{"blank lines", "\n", nil, "there is no row in rows.jsonl: no line in it holds anything"},
		{"rows that are none", "[1]\n{bad\n", nil, "no row can be read; the first is "},
		{"nothing to send", `{"q":"A","id":1}`, nil, "nothing says what to send of a row; the first row has id, q\nSay it by --prompt, as --prompt \"{{ item.FIELD }}\", or by --field FIELD."},
		{"no such field", `{"q":"A"}`, []string{"--field", "p"}, `the first row has no field "p"; it has q`},
		{"a field of another form", `{"q":{}}`, []string{"--field", "q"}, `the field "q" of the first row is neither a text nor a list`},
		{"messages as Python prints them", `{"messages":"[{'role': 'user', 'content': 'hi'}]"}`, nil, "a list of messages as Python prints it: write it as JSON"},
		{"no such variable", `{"q":"A"}`, []string{"--prompt", "{{ item.p }}"}, `no row has the field "p"`},
		{"two ways", `{"q":"A"}`, []string{"--prompt", "x", "--field", "q"}, "give one of them"},
		{"no system message", `{"q":"A"}`, []string{"--complete", "x", "--system", "y"}, "--complete takes no --system"},
		{"no replies", `{"prompt":"A"}`, []string{"-n", "0"}, "-n is 0: want 1 or more"},
		{"negative tokens", `{"prompt":"A"}`, []string{"--max-tokens", "-1"}, "--max-tokens is -1"},
		{"no tokens", `{"prompt":"A"}`, []string{"--max-tokens", "0"}, "--max-tokens is 0: want 1 or more"},
		{"negative temperature", `{"prompt":"A"}`, []string{"--temperature", "-0.5"}, "--temperature is -0.5: want 0 or more"},
		{"no temperature", `{"prompt":"A"}`, []string{"--temperature", "NaN"}, "--temperature is NaN: want 0 or more"},
		{"embeddings without an id", `{"method":"POST","url":"/v1/embeddings","prompt":"x"}`, nil, "asks for /v1/embeddings, and only /v1/chat/completions"},
		{"embeddings with messages", `{"custom_id":"a","url":"/v1/embeddings","body":{"messages":[{"role":"user","content":"x"}]}}`, nil, "asks for /v1/embeddings"},
		{"embeddings of a text", `{"custom_id":"a","url":"/v1/embeddings","body":"x","prompt":"y"}`, nil, "asks for /v1/embeddings"},
		{"a budget without a price", `{"prompt":"A"}`, []string{"--max-tokens", "5", "budget.usd=1"}, "or models.model.price.input=0.5 models.model.price.output=1.5 on the command line"},
		{"negative rows", `{"prompt":"A"}`, []string{"--limit", "-1"}, "--limit is -1"},
		{"embeddings", `{"custom_id":"a","url":"/v1/embeddings","body":{"input":"x"}}`, nil, "the batch file asks for /v1/embeddings, and only /v1/chat/completions"},
		{"a batch of prompts", `{"custom_id":"a","body":{"prompt":"x"}}`, nil, "the body of the first row has no messages"},
		{"a reply is there", ends, nil, "messages of the first row ends with the assistant's reply\n--rewrite leaves it out"},
		{"a reply is there, in a batch", `{"custom_id":"a","body":` + ends + `}`, nil, "body of the first row ends with the assistant's reply"},
		{"rewrite of a text", `{"prompt":"A"}`, []string{"--rewrite"}, "prompt of the first row is a text, in which there is no reply to ask for anew\nLeave out --rewrite"},
		{"rewrite of a template", `{"q":"A"}`, []string{"--rewrite", "--prompt", "x"}, "--rewrite is for rows that hold messages"},
		{"no folder", `{"prompt":"A"}`, []string{"-o", ""}, "-o is empty: name a folder, or leave it out"},
		{"no such key", `{"prompt":"A"}`, []string{"liev=3"}, "liev"},
		{"a budget without a bound", `{"prompt":"A"}`, []string{"budget.tokens=5k"}, "under a budget each reply needs a bound"},
		{"no such model", `{"prompt":"A"}`, []string{"nothing", "rows.jsonl"}, "nothing is not a config, an address or KIND:NAME"},
		{"no such config", `{"prompt":"A"}`, []string{"nothing.yaml", "rows.jsonl"}, "nothing.yaml: no such config"},
		{"no such kind", `{"prompt":"A"}`, []string{"nothing:x", "rows.jsonl"}, `no kind of model "nothing"; there are anthropic`},
		{"no such preset", `{"prompt":"A"}`, []string{"sim:9b", "rows.jsonl"}, "models.model.preset: expected 8b, 70b or slots"},
		{"two names", `{"prompt":"A"}`, []string{"openrouter:a", "rows.jsonl", "--model", "b"}, "names the model already\nLeave out --model."},
		{"several models", `{"prompt":"A"}`, []string{"two.yaml", "rows.jsonl"}, "two.yaml has the models a, b\nChoose one by --model."},
		{"another model", `{"prompt":"A"}`, []string{"two.yaml", "rows.jsonl", "--model", "c"}, "two.yaml has no model c; it has a, b"},
		{"no models", `{"prompt":"A"}`, []string{"none.yaml", "rows.jsonl"}, "none.yaml has no models"},
		{"no config", `{"prompt":"A"}`, []string{"rows.jsonl", "rows.jsonl"}, "rows.jsonl is a dataset, not a model\n\nMODEL is one of"},
		{"swapped", `{"prompt":"A"}`, []string{"rows.jsonl", "sim:8b", "-n", "2", "live=3"}, "rows.jsonl stands where the MODEL belongs, and sim:8b is one: write\n matrix infer sim:8b rows.jsonl live=3 -n 2"},
		{"swapped, an address", `{"prompt":"A"}`, []string{"rows.jsonl", url}, " infer " + url + " rows.jsonl"},
		{"swapped, a config", `{"prompt":"A"}`, []string{"rows.jsonl", "two.yaml", "--model", "a"}, " infer two.yaml rows.jsonl --model a"},
		{"a dataset alone", `{"prompt":"A"}`, []string{"rows.jsonl"}, "rows.jsonl is a dataset: the MODEL is missing, as in\n matrix infer MODEL rows.jsonl"},
		{"a wrong model", `{"prompt":"A"}`, []string{"wrong.yaml", "rows.jsonl"}, "wrong.yaml:1:19: models.model.modle: unknown key (did you mean \"model\"?)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(files(t, map[string]string{
				"rows.jsonl": tt.rows, "none.yaml": "name: x\n", "wrong.yaml": "models: {a: {     modle: x}}\n",
				"two.yaml": "models: {a: {base_url: x}, b: {base_url: y}}\n",
			}))
			args := tt.args
			if len(args) == 0 || strings.HasPrefix(args[0], "-") || strings.Contains(args[0], "=") && !strings.Contains(args[0], "://") {
				args = append([]string{url, "rows.jsonl"}, args...)
			}
			r := matrixCmd(append([]string{"infer"}, args...)...)
			r.want(t, 2, tt.want)
			if _, err := os.Stat("runs"); err == nil {
				t.Errorf("there is a run")
			}
		})
	}
	if n := s.Stats().Sum().Calls; n > 0 {
		t.Errorf("%d calls were made", n)
	}
}

// That the server has several models and none is named is said, and the run goes
// on as the server likes.
func TestInferUnnamed(t *testing.T) {
	var served []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			fmt.Fprintf(w, `{"data":[%s]}`, strings.Join(served, ","))
			return
		}
		fmt.Fprint(w, `{"model":"m","choices":[{"finish_reason":"stop","message":{"content":"ok"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`)
	}))
	defer s.Close()
	dir := files(t, map[string]string{"rows.jsonl": `{"id":"a","prompt":"A"}` + "\n"})
	const note = "The server has the models a, b, and none is named, so that it chooses one or refuses: name one by --model."
	for _, tt := range []struct {
		name   string
		served []string
		args   []string
		want   string
	}{
		{"several", []string{`{"id":"a"}`, `{"id":"b"}`}, nil, note},
		{"one is named", []string{`{"id":"a"}`, `{"id":"b"}`}, []string{"--model", "b"}, "!none is named"},
		{"one is named by an override", []string{`{"id":"a"}`, `{"id":"b"}`}, []string{"+models.model.model=b"}, "!none is named"},
		{"one", []string{`{"id":"a"}`}, nil, "!none is named"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			served = tt.served
			args := append([]string{"infer", s.URL, filepath.Join(dir, "rows.jsonl"), "-o", filepath.Join(t.TempDir(), "out")}, tt.args...)
			matrixCmd(args...).want(t, 0, tt.want)
		})
	}
	served = []string{`{"id":"a"}`, `{"id":"b"}`}
	if r := chatWith("Hi", s.URL); r.code != 0 || r.out != "ok\n" || !strings.Contains(r.err, note) {
		t.Errorf("chat: got %v, want %q on the error output", r, note)
	}
}

// A run that was stopped goes on with the same command, asks nothing twice that
// has landed, and a further one is finished; --fresh begins anew, and another
// prompt is refused.
func TestInferResumes(t *testing.T) {
	url, s := simService(t, sim.Config{Preset: "slots", Latency: sim.Latency{Mean: 20 * time.Millisecond}})
	dir := files(t, map[string]string{"rows.jsonl": rows(60)})
	t.Chdir(dir)
	args := []string{"infer", url, "rows.jsonl", "--prompt", "Say: {{ item.text }}", "models.model.concurrency=2"}

	interrupts := make(chan os.Signal, 1)
	stopped := make(chan result)
	go func() { stopped <- program(Program{interrupts: interrupts}, args...) }()
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Sum().Done < 5; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no calls are made")
		}
	}
	interrupts <- syscall.SIGINT
	r := (<-stopped).want(t, exitStopped, "pending; the same command goes on:")
	if again := "infer " + url + " rows.jsonl models.model.concurrency=2 --prompt 'Say: {{ item.text }}'"; !strings.Contains(r.err, again) {
		t.Errorf("got no line %q\n%v", again, r)
	}
	if n := counts(t, "runs/infer-rows"); n[0] == 0 || n[2] == 0 {
		t.Fatalf("got done, failed and pending %v, want some done and some pending", n)
	}
	matrixCmd(args...).want(t, 0, "Going on with runs/infer-rows")
	if n := counts(t, "runs/infer-rows"); n != [3]int64{60, 0, 0} {
		t.Errorf("got done, failed and pending %v, want all done", n)
	}
	if st := s.Stats(); st.Twice > 0 {
		t.Errorf("%d calls were paid twice", st.Twice)
	}
	all := said(t, "runs/infer-rows", rundir.DataDir)
	if len(all) != 60 || all["q59"] != "Say: question 59" {
		t.Errorf("got %d replies, and to the last row %q", len(all), all["q59"])
	}

	calls := s.Stats().Sum().Calls
	matrixCmd(args...).want(t, 0, "runs/infer-rows is finished")
	other := slices.Clone(args)
	other[4] = "{{ item.text }}"
	matrixCmd(other...).want(t, 2, "roles.reply.chat.prompt", "--accept-changes")
	if n := s.Stats().Sum().Calls; n != calls {
		t.Errorf("%d calls were made for a run that is finished", n-calls)
	}
	matrixCmd(append(other, "--fresh")...).want(t, 0, "!Going on")
	if got := said(t, "runs/infer-rows", rundir.DataDir)["q7"]; got != "question 7" {
		t.Errorf("got %q, want the new prompt's", got)
	}
}

// A budget stops it, and the line that it says goes on.
func TestInferBudget(t *testing.T) {
	url, _ := simService(t, sim.Config{})
	t.Chdir(files(t, map[string]string{"rows.jsonl": rows(40)}))
	args := []string{"infer", url, "rows.jsonl", "--field", "text", "--max-tokens", "20"}
	r := matrixCmd(append(args, "budget.tokens=450")...).want(t, exitStopped, "a larger budget goes on:")
	_, more, _ := strings.Cut(r.err, "a larger budget goes on:\n")
	words := strings.Fields(more)
	if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "budget.tokens=") }); i < 0 || !slices.Contains(words, "--max-tokens") {
		t.Fatalf("got the line %q", more)
	}
	matrixCmd(append(args, "budget.tokens=1M")...).want(t, 0, "Going on")
	if n := counts(t, "runs/infer-rows"); n != [3]int64{40, 0, 0} {
		t.Errorf("got done, failed and pending %v", n)
	}
}

// A model whose servers another config starts is found by that config.
func TestInferServed(t *testing.T) {
	url, _ := simService(t, sim.Config{})
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := files(t, map[string]string{
		"rows.jsonl": `{"id":"a","prompt":"A"}` + "\n",
		"up.yaml":    "models: {mine: {model: sim-slots, serve: {engine: vllm, model: m}}}\n",
	})
	state, err := launch.StateOf(filepath.Join(dir, "up.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := state.Endpoints("mine")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(url+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	matrixCmd("infer", filepath.Join(dir, "up.yaml"), filepath.Join(dir, "rows.jsonl"), "-o", filepath.Join(dir, "out")).want(t, 0)
	if got := said(t, filepath.Join(dir, "out"), rundir.DataDir)["a"]; got != "A" {
		t.Errorf("got %q", got)
	}
}
