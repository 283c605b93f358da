package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"matrix/internal/estimate"
	"matrix/internal/human"
	"matrix/internal/spend"
)

// forecastOf reads a plan.
func forecastOf(t *testing.T, args ...string) estimate.Estimate {
	t.Helper()
	r := matrixCmd(append([]string{"plan", "--json"}, args...)...).want(t, 0)
	var f estimate.Estimate
	if err := json.Unmarshal([]byte(r.out), &f); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	return f
}

// within reports whether an estimate can be x.
func within(x float64, e estimate.Range) bool {
	return e.Low <= x && x <= e.High && e.Low <= e.Mid && e.Mid <= e.High
}

func TestPlanMakesNoCall(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(30)})
	f := forecastOf(t, dir, "trials=2", "models.m.concurrency=10", "budget.usd=1000")
	if calls.Load() != 0 {
		t.Errorf("a plan made %d calls", calls.Load())
	}
	// 60 calls of a few tokens in, and 25 to 100 out, at a dollar for 1,000.
	if f.Rows != 30 || f.Tasks != 60 || len(f.Roles) != 1 || f.Roles[0].Calls != (estimate.Range{Low: 60, Mid: 60, High: 60}) || !within(60*50, f.Roles[0].Reply) {
		t.Errorf("got %+v", f)
	}
	if f.USD == nil || !within(60*(0.007+0.05), *f.USD) || f.USD.High > 20 || f.Roles[0].USD.Mid != f.USD.Mid {
		t.Errorf("cost: got %+v", f.USD)
	}
	if f.Seconds == nil || !within(60*1.5/10, *f.Seconds) || f.Disk.Mid < 60*100 {
		t.Errorf("time %+v, disk %+v", f.Seconds, f.Disk)
	}
	matrixCmd("plan", dir, "budget.usd=1000").want(t, 0, "paid: 30 rows", "role model calls prompt tokens reply tokens USD", "say m 30",
		"No call was made", "concurrency of m is auto", "The budget of 1000.00 USD covers it")
	matrixCmd("plan", dir, "trials=1000", "dataset.limit=12").want(t, 0, "paid: 12 rows, 1,000 trials each: 12,000 tasks\n")
	matrixCmd("plan", dir, "trials=100000000").want(t, exitUsage, "trials=100000000: got 100000000, want 1,000,000 at most")
	matrixCmd("plan", dir, "budget.usd=0.5").want(t, 0, "The budget of 0.50 USD does not cover it")
	matrixCmd("plan", dir, "~models.m.price").want(t, 0, "cost not known: set price at m")
}

func TestPlanOfALoop(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(10), "config.yaml": `
dataset: {path: rows.jsonl, id: id}
models:
  a: {base_url: "http://127.0.0.1:1", model: gpt-4o-mini, max_tokens: 200, concurrency: 5}
  b: {base_url: "http://127.0.0.1:1", model: claude-sonnet-4-5, max_tokens: 200, concurrency: 5}
roles:
  ask: {chat: {model: a, prompt: "{{ item.text }}", sees: [answer]}}
  answer: {chat: {model: b, sees: [ask], parse: {regex: "the answer is (.)"}}}
  check: {compute: {good: "last.data.answer == 'A'"}}
  write: {chat: {model: b, sees: [ask, answer], prompt: "sum it up"}}
flow:
  start: ask
  after:
    ask: answer
    answer: check
    check: [{when: "last.data.good || rounds('check') >= 4", to: write}, {to: ask}]
    write: [{finish: "true"}]
`})
	f := forecastOf(t, dir)
	want := map[string]estimate.Range{"ask": {Low: 10, Mid: 25, High: 40}, "answer": {Low: 10, Mid: 25, High: 40}, "write": {Low: 10, Mid: 10, High: 10}}
	for _, r := range f.Roles {
		if r.Calls != want[r.Role] && !(r.Calls.Low == 10 && r.Calls.High >= 10) {
			t.Errorf("%s: got %+v calls, want %+v", r.Role, r.Calls, want[r.Role])
		}
		delete(want, r.Role)
	}
	if len(want) > 0 || len(f.Models) != 2 || f.USD == nil || f.USD.Mid <= 0 {
		t.Errorf("roles missing: %v; models %+v, cost %+v", want, f.Models, f.USD)
	}
}

// A plan of a flow that loops says how it counts rounds; one of a flow that does not, nothing.
func TestPlanSaysHowItCountsRounds(t *testing.T) {
	dir := files(t, map[string]string{"rows.jsonl": rows(10), "config.yaml": echo, "loop.yaml": strings.Replace(echo, "flow: [say]", `flow: {start: say, after: {say: [{when: "rounds('say') >= 4", finish: last.text}, {to: say}]}}`, 1)})
	matrixCmd("plan", filepath.Join(dir, "loop.yaml")).want(t, 0, "The flow may loop: the first call of a role is counted whole", "There may be 10 to 40 calls.")
	matrixCmd("plan", dir).want(t, 0, "!may loop")
}

func TestPlanFromASample(t *testing.T) {
	var calls atomic.Int64
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(paid, bill(t, &calls, nil)), "rows.jsonl": rows(100)})
	f := forecastOf(t, dir, "--sample=4", "models.m.concurrency=2")
	if calls.Load() != 4 {
		t.Errorf("calls: got %d, want 4", calls.Load())
	}
	if f.Sample == nil || f.Sample.Tasks != 4 || f.Sample.Cost.USD < 0.799 || f.Sample.Cost.USD > 0.801 || f.Sample.Cost.Tokens != 800 {
		t.Errorf("sample: got %+v", f.Sample)
	}
	if f.USD == nil || !within(20, *f.USD) || f.USD.Mid < 19.99 || f.USD.Mid > 20.01 || f.Roles[0].Calls.Mid != 100 || f.Seconds == nil {
		t.Errorf("got %+v, %+v", f.USD, f.Roles)
	}
	matrixCmd("plan", dir, "--sample", "2").want(t, 0, "From a sample of 2 tasks (0 failed) that cost 0.40 USD and 400 tokens", "20.00 (18.00 to 22.00) USD")
	matrixCmd("plan", dir, "--sample=-1").want(t, exitUsage, "--sample is -1")
	matrixCmd("plan", dir, "--sample").want(t, exitUsage, "--sample")
}

// A row's children are counted with it, by a walk over some of them and by a sample.
func TestPlanOfTrees(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": strings.Replace(brood, "[1, 2, 3]", "0..8", 1), "rows.jsonl": rows(20)})
	for _, args := range [][]string{{dir}, {dir, "--sample=2"}} {
		f := forecastOf(t, args...)
		if f.Tasks != 20 || f.Children == nil || f.Children.Mid != 180 || len(f.Roles) != 1 || int(f.Roles[0].Calls.Mid+0.5) != 180 {
			t.Errorf("%v: got %d tasks with %+v children, %+v", args[1:], f.Tasks, f.Children, f.Roles)
		}
	}
	matrixCmd("plan", dir, "--sample=2").want(t, 0, "From a sample of 2 tasks with 18 children", "children 180 (162 to 198)")
	var calls atomic.Int64
	paid := strings.Replace(fmt.Sprintf(paid, bill(t, &calls, nil)), "flow: [say]", "flow: {start: say, after: {say: {expand: last.data.list, as: part, to: say}}, depth: 2}", 1)
	paid = strings.Replace(paid, `{{ item.text }}"`, `{{ item.text }}", parse: {schema: {type: object, required: [list], properties: {list: {type: array, items: {type: string}}}}}`, 1)
	dir = files(t, map[string]string{"config.yaml": paid, "rows.jsonl": rows(20)})
	matrixCmd("plan", dir).want(t, 0, "What becomes of a task behind say depends on replies")
}

func TestPlanOfNothing(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": ""})
	matrixCmd("plan", dir).want(t, 0, "The dataset has no rows", "There is nothing to plan")
	if f := forecastOf(t, dir); f.Tasks != 0 || len(f.Roles) != 0 {
		t.Errorf("got %+v", f)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "runs")); len(left) > 0 {
		t.Errorf("a plan wrote %v", left)
	}
}

func TestPlanOfModelsWithoutService(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": echo, "rows.jsonl": rows(30)})
	f := forecastOf(t, dir)
	if f.Tokens != (estimate.Range{Low: 240, Mid: 240, High: 240}) || f.USD == nil || f.USD.Mid != 0 {
		t.Errorf("got %+v tokens, want 240 as a run takes; %+v", f.Tokens, f.USD)
	}
}

func TestSpendingLine(t *testing.T) {
	for _, tt := range []struct {
		s    *spend.Spending
		want string
	}{
		{nil, ""},
		{&spend.Spending{Tokens: 100}, ""},
		{&spend.Spending{USD: 1.5}, "spent 1.50 USD"},
	} {
		if got := spentLine(tt.s); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
	if strings.Contains(ranged(estimate.Range{Low: 1, Mid: 1, High: 1}, human.Short), "to") {
		t.Error("a sure number has a range")
	}
}

// What readers that want one type for each field cannot take is said before it is
// paid for.
func TestPlanWarnsOfFields(t *testing.T) {
	flow := `
dataset: {path: rows.jsonl, id: id}
models: {m: {kind: scripted, reply: '{"score": 1}'}}
roles:
  judge: {chat: {model: m, prompt: "{{ item.id }}", parse: {schema: {type: object, properties: {score: {type: [integer, "null"]}, why: {type: array, items: {type: string}}}}}}}
  sum: {compute: {%s}}
flow: [judge, {role: sum, finish: %s}]
`
	for _, c := range []struct{ name, rows, sum, finish, want string }{
		{"one type each", `{"id":"a","n":1,"l":[],"o":{"x":null}}` + "\n" + `{"id":"b","n":2.5,"l":["x"],"o":{"x":{"y":1}}}`, `score: "2.5", why: "[item.id]"`, `1.0`, ""},
		{"a row", `{"id":"a","n":1}` + "\n" + `{"id":"b","n":"x"}`, `half: "0.5"`, `1`, "item.n is a number (row a) and a text (row b)"},
		{"in lists of a row", `{"id":"a","l":[{"x":[1]},{"x":true}]}`, `half: "0.5"`, `1`, "item.l[].x is a list (row a) and true or false (row a)"},
		{"two roles", `{"id":"a"}`, `score: "item.id"`, `1`, "turns[].data.score is a number (role judge) and a text (role sum in row a)"},
		{"a list in a schema", `{"id":"a"}`, `why: "[1]"`, `1`, "turns[].data.why[] is a text (role judge) and a number (role sum in row a)"},
		{"null first", `{"id":"a","l":[[null],[2,null],[null,1]]}`, `half: "0.5"`, `1`, "item.l[] (row a) is a list that begins with null"},
		{"letters", `{"id":"a","o":{"Name":1}}` + "\n" + `{"id":"b","o":{"name":1}}`, `half: "0.5"`, `1`, "item.o.Name (row a) and item.o.name (row b) differ only in case"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(flow, c.sum, c.finish), "rows.jsonl": c.rows + "\n"})
			for _, args := range [][]string{{dir}, {dir, "--sample", "2"}} {
				var warnings []string
				for _, n := range forecastOf(t, args...).Notes {
					if strings.HasPrefix(n, "Warning: ") {
						warnings = append(warnings, n)
					}
				}
				if c.want == "" && len(warnings) > 0 || c.want != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], c.want)) {
					t.Errorf("%v: got %q, want %q", args[1:], warnings, c.want)
				}
			}
		})
	}
	many := `{"id":"a"`
	for i := range 15 {
		many += fmt.Sprintf(`,"f%d":[1,"x"]`, i)
	}
	dir := files(t, map[string]string{"config.yaml": fmt.Sprintf(flow, `half: "0.5"`, `1`), "rows.jsonl": many + "}\n"})
	matrixCmd("plan", dir).want(t, 0, "item.f9[] is a number", "likewise 5 other fields")
}

// The vectors by which tasks are compared are calls, too, of a prompt and no reply.
func TestPlanOfUnique(t *testing.T) {
	dir := files(t, map[string]string{"config.yaml": `
name: embeds
dataset: {path: rows.jsonl}
models:
  m: {base_url: "http://127.0.0.1:1/v1", model: x, max_tokens: 100, price: {input: 1, output: 1}}
  e: {base_url: "http://127.0.0.1:1/v1", model: y, price: {input: 1}}
roles: {say: {chat: {model: m, prompt: hi}}}
flow: [say]
unique: {method: embedding, model: e, threshold: 0.9}
`, "rows.jsonl": rows(10)})
	f := forecastOf(t, dir)
	if len(f.Roles) != 2 {
		t.Fatalf("got %+v", f.Roles)
	}
	if u := f.Roles[1]; u.Role != "unique" || u.Calls.Mid != 10 || u.Prompt.Low <= 0 || u.Reply != (estimate.Range{}) {
		t.Errorf("got %+v, want a call a task, without a reply", u)
	}
}
