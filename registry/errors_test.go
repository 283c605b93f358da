package registry

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"matrix/internal/config"
)

const head = "name: x\ndataset: {path: rows.jsonl, id: id}\n" // two lines

// Each error stands at its file, line and column, with its key.
func TestErrors(t *testing.T) {
	tests := []struct {
		name string
		yaml string   // after head
		want []string // in order; one that ends in ... is a prefix
	}{
		{"unique", `roles: {a: {note: {say: hi}}}
flow: [a]
shards: 2
unique: {on: last.txt.x, threshold: 1.5, model: m, overlap: 13}
`, []string{
			`config.yaml:6:14: unique.on: needs one shard, and shards is 2: tasks are compared in the order in which they end`,
			`config.yaml:6:19: unique.on: a turn has no txt...`,
			`config.yaml:6:37: unique.threshold: 1.5: want 0.3 to 1`,
			`config.yaml:6:49: unique.model: is of method embedding, and method is minhash`,
		}},
		{"pool", `roles:
  a: {compute: {x: "draw(pool.seeds, 2)", pool: "1"}, inline: true}
  b: {compute: {y: pool}}
flow: [a, b]
pool: {seeds: none.jsonl, kept: last.txt, most: 0}
`, []string{
			`config.yaml:4:49: roles.a.compute.pool: this is what may be drawn from...`,
			`config.yaml:4:63: roles.a.inline: a role that draws from the pool has a hop of its own...`,
			`config.yaml:7:15: pool.seeds: none.jsonl: no such file...`,
			`config.yaml:7:38: pool.kept: a turn has no txt...`,
			`config.yaml:7:49: pool.most: got 0, want 1 or more`,
		}},
		{"no pool", `roles:
  a: {compute: {x: "draw(pool.seeds, 2)"}}
flow: [a]
`, []string{`config.yaml:4:26: roles.a.compute.x: unknown name pool...`}},
		{"until", `roles: {a: {note: {say: hi}}}
flow: [a]
shards: 2
until: {kept: 0, per: last.text, most: 0}
`, []string{
			`config.yaml:6:15: until.kept: got 0, want 1 or more`,
			`config.yaml:6:15: until.kept: needs one shard, and shards is 2: tasks are counted in the order in which they end`,
			`config.yaml:6:23: until.per: is asked of a row, which has no turns yet: it may read item and params`,
			`config.yaml:6:40: until.most: got 0, want 1 to 1,000,000`,
		}},
		{"trials until what", `roles: {a: {note: {say: hi}}}
flow: [a]
trials: until
`, []string{`config.yaml:5:9: trials: is until, and until is missing: say how many tasks are to be kept, as until: {kept: 200}`}},
		{"trials", `roles: {a: {note: {say: hi}}}
flow: [a]
trials: untl
`, []string{`config.yaml:5:9: trials: got "untl", want 1 or more, or until`}},
		{"unique by a model", `roles: {a: {note: {say: hi}}}
flow: [a]
unique: {method: embedding, model: nosuch, against: [rows.jsonl], overlap: 0}
`, []string{`config.yaml:5:76: unique.overlap: is missing: with method embedding, the files of against are compared by words in common alone`}},
		{"unique by a model that is not there", `roles: {a: {note: {say: hi}}}
flow: [a]
unique: {method: embedding, model: nosuch}
`, []string{`config.yaml:5:36: unique.model: there is no model "nosuch"; there is none at all`}},
		{"kind of agent", `roles:
  a: {nte: {say: hi}}
flow: [a]
`, []string{`config.yaml:4:7: roles.a.nte: unknown key (did you mean "note"?)`}},
		{"a program for code that is none", `models: {m: {kind: scripted, reply: hi}}
pools: {box: {kind: plain}}
roles: {a: {chat: {model: m, prompt: hi, tools: [{pool: box, run: []}]}}}
flow: [a]
`, []string{`config.yaml:5:50: roles.a.chat.tools.0: box is a pool of sandboxes, and its tool needs one of code (python or bash) and run (a program that is given the file with the code)`}},
		{"no agent", `roles:
  a: {attempts: 2}
flow: [a]
`, []string{`config.yaml:4:6: roles.a: a role needs an agent: one of calls, chat, command, complete, compute, embed, exec, judge, note, python, request or score`}},
		{"two agents", `roles:
  a: {note: {say: hi}, compute: {x: "1"}}
flow: [a]
`, []string{`config.yaml:4:6: roles.a: a role has one agent, and this one has compute and note`}},
		{"name of a role", `roles:
  "a b": {note: {say: hi}}
flow: ["a b"]
`, []string{`config.yaml:4:10: roles.a b: "a b" is not a name for a role: use letters, digits, _ and -`}},
		{"key of an agent", `roles:
  a: {note: {say: hi, nxt: x}}
flow: [a]
`, []string{`config.yaml:4:23: roles.a.note.nxt: unknown key (did you mean "next"?)`}},
		{"several errors of one constructor", `roles:
  a:
    note:
      say: |
        one
        two {{ itm.x }}
      next: bad
flow: [a]
`, []string{
			`config.yaml:8:16: roles.a.note.say: unknown name itm...`,
			`config.yaml:9:13: roles.a.note.next: is bad`,
		}},
		{"chat", `models: {teacher: {kind: scripted, reply: x}, broken: {kind: nosuch}}
roles:
  a: {chat: {model: techer, prompt: hi}}
  b: {chat: {model: broken, prompt: hi}}
  c: {chat: {model: teacher, max_tokens: -1, parse: {regex: "("}}}
  d: {chat: {model: teacher, sees: [a, dd, user], prompt: "{{ item.qestion }}{{ rounds('x') }}"}}
  e: {chat: {model: teacher, sees: [a], systm: x}}
  f:
    chat:
      model: nobody
      prompt: |
        Hello
          {{ itm }}
flow: [a, b, c, d, e, f]
`, []string{
			`config.yaml:3:62: models.broken.kind: there is no kind of model "nosuch"...`,
			`config.yaml:5:21: roles.a.chat.model: there is no model "techer" (did you mean "teacher"?)`,
			`config.yaml:7:13: roles.c.chat: a chat needs sees, prompt, or both: there is nothing to reply to`,
			`config.yaml:7:42: roles.c.chat.max_tokens: ...`,
			`config.yaml:7:61: roles.c.chat.parse.regex: not a regular expression: ...`,
			`config.yaml:8:40: roles.d.chat.sees.1: there is no role "dd"...`,
			`config.yaml:8:59: roles.d.chat.prompt: there is no role "x"...`,
			`config.yaml:8:59: roles.d.chat.prompt: no row has the field "qestion" (did you mean "question"?)`,
			`config.yaml:9:41: roles.e.chat.systm: unknown key (did you mean "system"?)`,
			`config.yaml:12:14: roles.f.chat.model: there is no model "nobody"; there are broken, teacher`,
			`config.yaml:15:14: roles.f.chat.prompt: unknown name itm...`,
		}},
		{"grammars", `models:
  m: {kind: scripted, reply: x}
roles:
  a:
    chat:
      model: m
      prompt: p
      parse:
        grammar: |
          root ::= answer
          answer ::= "yes" | no
  b: {chat: {model: m, prompt: p, parse: {grammar: 'root ::= "x'}}}
  c: {chat: {model: m, prompt: p, parse: {grammar: 'start: "x"'}}}
flow: [a, b, c]
`, []string{
			`config.yaml:13:30: roles.a.chat.parse.grammar: line 2, character 20 of the grammar: there is no rule "no"`,
			`config.yaml:14:62: roles.b.chat.parse.grammar: line 1, character 10 of the grammar: this text has no end: want "`,
			`config.yaml:15:53: roles.c.chat.parse.grammar: line 1, character 1 of the grammar: this is Lark's notation (NAME: ...), want NAME ::= ...; extra_body sends what is not read here, ...`,
		}},
		{"command", `roles:
  a: {command: {run: [no-such-program-anywhere]}}
  b: {command: {run: [sh, x], workers: 0, dir: nowhere}}
  c: {command: {}}
flow: [a, b, c]
`, []string{
			`config.yaml:4:22: roles.a.command.run: cannot run no-such-program-anywhere: ...`,
			`config.yaml:5:40: roles.b.command.workers: got 0, want 1 or more`,
			`config.yaml:5:48: roles.b.command.dir: ...`,
			`config.yaml:6:16: roles.c.command.run: is missing`,
		}},
		{"compute", `roles:
  a:
    compute:
      x: lst.text
      y: x + z
      z: {a: 1}
  b: {compute: [x]}
  c: {compute: {}}
  d: {compute: {x: "rounds('e') + item.nothing", y: y1, y1: "1"}}
flow: [a, b, c, d]
`, []string{
			`config.yaml:8:10: roles.a.compute.z: expected a text, got a map`,
			`config.yaml:9:16: roles.b.compute: expected a map, got a list`,
			`config.yaml:10:16: roles.c.compute: compute has no field...`,
			`config.yaml:11:53: roles.d.compute.y: the expression uses a field that comes later...`,
		}},
		{"compute, a field without a name", `roles:
  a: {compute: {'': "1"}}
flow: [a]
`, []string{
			`config.yaml:4:16: roles.a.compute: a field has no name`,
		}},
		{"compute, what it asks for", `roles:
  a: {compute: {x: "rounds('e')", y: "item.nothing", z: lst.text}}
flow: [a]
`, []string{
			`config.yaml:4:57: roles.a.compute.z: unknown name lst...`,
		}},
		{"compute, what it asks for, once it compiles", `roles:
  a: {compute: {x: "rounds('e')", y: "item.nothing"}}
flow: [a]
`, []string{
			`config.yaml:4:20: roles.a.compute.x: there is no role "e"; there are a`,
			`config.yaml:4:38: roles.a.compute.y: no row has the field "nothing"...`,
		}},
		{"kind of model", `models:
  m: {kind: cohere}
  n: {kind: repaly, path: x}
roles: {a: {note: {say: hi}}}
flow: [a]
`, []string{
			`config.yaml:4:13: models.m.kind: there is no kind of model "cohere"; there are anthropic, azure, bedrock, gemini, llama-api, openai, openrouter, replay, sagemaker, scripted, sim, vertex, vllm-grpc`,
			`config.yaml:5:13: models.n.kind: there is no kind of model "repaly" (did you mean "replay"?)`,
		}},
		{"settings of models", `models:
  m: {base_url: "http://127.0.0.1:1/v1", timeout: -1s}
  n: {kind: scripted}
  o: {kind: scripted, reply: "{{ prmpt }}"}
  p: {kind: scripted, reply: x, replies: [y]}
  q: {kind: openai, base_url: "http://127.0.0.1:1", record: out.jsonl.gz}
  r: {temprature: 1, base_url: "http://127.0.0.1:1"}
roles: {a: {note: {say: hi}}}
flow: [a]
`, []string{
			`config.yaml:4:51: models.m.timeout: got -1s, want 0s or more`,
			`config.yaml:5:6: models.n.reply: is missing: say what the model replies, by reply or by replies`,
			`config.yaml:6:34: models.o.reply: unknown name prmpt...`,
			`config.yaml:7:42: models.p.replies: a model has reply or replies, not both`,
			`config.yaml:8:61: models.q.record: ...`,
			`config.yaml:9:7: models.r.temprature: unknown key (did you mean "temperature"?)`,
		}},
		{"sequence", `roles:
  a: {note: {say: hi}}
  b: {note: {say: hi}}
flow:
  - aa
  - {role: a, stop: "last.txt == 1"}
  - {role: a, stp: x}
  - {role: c}
`, []string{
			`config.yaml:9:15: flow.2.stp: unknown key (did you mean "stop"?)`,
		}},
		{"sequence, its meaning", `roles:
  a: {note: {say: hi}}
  b: {note: {say: hi}}
flow:
  - bb
  - {role: a, stop: "lst.text == 'x'"}
  - {role: c}
`, []string{
			`config.yaml:7:5: flow.0: there is no role "bb"; there are a, b`,
			`config.yaml:8:22: flow.1.stop: unknown name lst...`,
			`config.yaml:9:12: flow.2.role: there is no role "c"...`,
		}},
		{"role that nothing leads to", `roles:
  a: {note: {say: hi}}
  b: {note: {say: hi}}
flow: [a]
`, []string{`config.yaml:5:6: roles.b: nothing in the flow leads to this role: add it to the flow, or remove it`}},
		{"graph", `roles:
  teacher: {note: {say: hi}}
  student: {note: {say: hi}}
flow:
  open:
    - {role: techer, text: hi}
  start: teachr
  after:
    teacher: studnt
    student:
      - {when: "last.text ==", finish: true}
      - {to: teacher}
      - {when: "trial > 0", fail: "{{ item.why"}
`, []string{
			`config.yaml:8:14: flow.open.0.role: there is no role "techer" (did you mean "teacher"?)`,
			`config.yaml:9:10: flow.start: there is no role "teachr" (did you mean "teacher"?)`,
			`config.yaml:11:14: flow.after.teacher: there is no role "studnt" (did you mean "student"?)`,
			`config.yaml:13:2...`,
			`config.yaml:15:9: flow.after.student.2: this rule never counts: rule 1 before it has no condition`,
			`config.yaml:15:...`,
		}},
		{"graph, its keys", `roles: {a: {note: {say: hi}}}
flow:
  start: a
  aftr: {a: {to: b}}
`, []string{
			`config.yaml:5:3: flow.after: is missing`,
			`config.yaml:6:3: flow.aftr: unknown key (did you mean "after"?)`,
		}},
		{"graph, rules", `roles: {a: {note: {say: hi}}}
flow:
  start: a
  after:
    a: [{wen: "true", finish: true}]
  on_error:
    a: [[b]]
`, []string{
			`config.yaml:7:10: flow.after.a.0.wen: unknown key (did you mean "when"?)`,
			`config.yaml:9:9: flow.on_error.a.0: expected a map, got a list`,
		}},
		{"graph, lone rules", `roles: {a: {note: {say: hi}}}
flow:
  start: {to: b}
  after:
    a: {when: "lst == 1", finish: true}
`, []string{
			`config.yaml:5:15: flow.start.0.to: there is no role "b"; there are a`,
			`config.yaml:7:16: flow.after.a.0.when: unknown name lst...`,
		}},
		{"lone role", `roles: {a: {note: {say: hi}}}
flow: b
`, []string{`config.yaml:4:7: flow.0: there is no role "b"; there are a`}},
		{"beginning of a role's name", `roles:
  1a: {note: {say: hi}}
  -b: {note: {say: hi}}
flow: [1a, -b]
`, []string{
			`config.yaml:4:7: roles.1a: "1a" is not a name for a role: it must begin with a letter`,
			`config.yaml:5:7: roles.-b: "-b" is not a name for a role: it must begin with a letter`,
		}},
		{"replies that leave a role out", `models: {m: {kind: scripted, replies: {a: x}}}
roles:
  a: {chat: {model: m, prompt: hi}}
  b: {chat: {model: m, prompt: hi}}
flow: [a, b]
`, []string{`config.yaml:6:21: roles.b.chat.model: the replies of model "m" have no list for role "b"; there are lists for a`}},
		{"record to what is replayed", `models:
  m: {kind: replay, path: rows.jsonl, key: question, text: id, record: rows.jsonl}
  n: {kind: scripted, reply: x, record: ./rows.jsonl}
  o: {kind: scripted, reply: x, record: other.jsonl}
roles: {a: {note: {say: hi}}}
flow: [a]
`, []string{
			`config.yaml:4:72: models.m.record: is the file that the model replays: name another`,
			`config.yaml:5:41: models.n.record: is the file that model "m" replays: name another`,
		}},
		{"leads nowhere", `roles: {a: {note: {say: hi}}, b: {note: {say: hi}}}
flow:
  start: a
  after: {a: b}
`, []string{`config.yaml:6:10: flow.after: role b leads nowhere: say who acts after it, or finish`}},
		{"kind of flow", `roles: {a: {note: {say: hi}}}
flow: {kind: grph, start: a}
`, []string{`config.yaml:4:14: flow.kind: there is no kind of flow "grph" (did you mean "graph"?)`}},
		{"a scripted model that sees turns", `models:
  m: {kind: scripted, reply: "{{ turn('a').text }} {{ last.text }}"}
roles: {a: {chat: {model: m, prompt: p}}}
flow: [a]
`, []string{"config.yaml:4:30: models.m.reply: a scripted model sees no turns..."}},
		{"role asked for by expressions", `roles: {a: {note: {say: hi}}}
flow:
  start: a
  after:
    a:
      - {when: "rounds('b') > 2", finish: true}
      - {to: a}
metrics:
  m: "rounds('bb') + rounds('user')"
`, []string{
			`config.yaml:8:16: flow.after.a.0.when: no role "b" ever takes a turn...`,
			`config.yaml:11:6: metrics.m: there is no role "bb"...`,
		}},
		{"metrics", `roles: {a: {note: {say: hi}}}
flow: [a]
metrics:
  right: "outcom == 1"
  wrong: "1 +"
`, []string{
			`config.yaml:6:11: metrics.right: unknown name outcom...`,
			`config.yaml:7:1...`,
		}},
		{"fields that no row has", `roles:
  a: {note: {say: "Q: {{ item.questoin }} {{ item.source }}"}}
  b: {note: {say: "{{ item.absent | default('x') }} {{ item.other }}"}}
models:
  m: {kind: scripted, reply: "{{ item.reply }}"}
flow:
  - {role: a, stop: "item.ansewr > 3"}
  - b
metrics:
  m: item.xyz == 1
`, []string{
			`config.yaml:4:19: roles.a.note.say: no row has the field "questoin" (did you mean "question"?)`,
			`config.yaml:5:19: roles.b.note.say: no row has the field "other"; there are answer, id, question, source`,
			`config.yaml:7:30: models.m.reply: no row has the field "reply"; there are answer, id, question, source`,
			`config.yaml:9:21: flow.0.stop: no row has the field "ansewr" (did you mean "answer"?)`,
			`config.yaml:12:6: metrics.m: no row has the field "xyz"; there are answer, id, question, source`,
		}},
		{"where", `roles:
  a: {note: {say: hi}, inline: false, where: "gpu = 'h100'"}
  b: {note: {say: hi}, inline: false, where: gpus >= 4}
  c: {note: {say: hi}, inline: false, where: item.x == "1"}
  d: {note: {say: hi}, inline: false, where: ""}
  e: {compute: {x: "1"}, where: gpu == "h100"}
flow: [a, b, c, d, e]
`, []string{
			`config.yaml:4:51: roles.a.where: ...`,
			`config.yaml:5:51: roles.b.where: a label is a text, and 4 a number: write gpus == "4", or int(gpus ?? 0) to compare as numbers`,
			`config.yaml:6:46: roles.c.where: item is of a task, and this is asked of a machine: it sees labels and params`,
			`config.yaml:7:46: roles.d.where: the expression is empty`,
			`config.yaml:8:33: roles.e.where: an inline role acts on the machine of the role before it: leave where out, or set inline: false`,
		}},
		{"numbers", `roles: {a: {note: {say: hi}, attempts: 0, concurrency: -1}}
flow: [a]
live: 0
trials: 0
limits: {rounds: -1, seconds: -0.5}
`, []string{
			`config.yaml:3:40: roles.a.attempts: got 0, want 1 or more`,
			`config.yaml:3:56: roles.a.concurrency: got -1, want 0 or more`,
			`config.yaml:5:7: live: got 0, want 1 or more`,
			`config.yaml:6:9: trials: got 0, want 1 or more`,
			`config.yaml:7:18: limits.rounds: got -1, want 0 or more`,
			`config.yaml:7:31: limits.seconds: got -0.5, want 0 or more`,
		}},
		{"too many trials", `roles: {a: {note: {say: hi}}}
flow: [a]
trials: 1000001
`, []string{`config.yaml:5:9: trials: got 1000001, want 1,000,000 at most: each is named before the first of them is begun`}},
		{"parse that is empty", `models: {m: {kind: scripted, reply: x}}
roles:
  a: {chat: {model: m, prompt: p, parse: {grammar: ""}}}
  b: {chat: {model: m, prompt: p, parse: {regex: '', enforce: true}}}
  c: {chat: {model: m, prompt: p, parse: {choice: [], enforce: true}}}
  d: {chat: {model: m, prompt: p, parse: {choice: , regex: x}}}
flow: [a, b, c, d]
`, []string{
			`config.yaml:5:52: roles.a.chat.parse.grammar: is empty: say what it is to be, or leave the key out`,
			`config.yaml:6:50: roles.b.chat.parse.regex: is empty: ...`,
			`config.yaml:7:51: roles.c.chat.parse.choice: is empty: ...`,
		}},
		{"errors of every part at once", `metrics: {m: "1 +"}
roles: {a: {note: {say: "{{ x }}"}}}
models: {m: {kind: x}}
flow: [b]
`, []string{
			`config.yaml:3:...`, `config.yaml:4:...`, `config.yaml:5:...`, `config.yaml:6:8: flow.0: there is no role "b"...`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, dir, err := build(t, head+test.yaml)
			compare(t, err, dir, test.want)
		})
	}
}

func TestDatasetErrors(t *testing.T) {
	const rest = "\nroles: {a: {note: {say: hi}}}\nflow: [a]\n"
	tests := []struct {
		name    string
		dataset string
		want    []string
	}{
		{"no file", "dataset: {path: none.jsonl}", []string{`config.yaml:1:17: dataset.path: ...`}},
		{"kind of file", "dataset: {path: config.yaml}", []string{`config.yaml:1:17: dataset.path: ...`}},
		{"id field", "dataset: {path: rows.jsonl, id: idd}", []string{`config.yaml:1:33: dataset.id: no row has the field "idd" (did you mean "id"?)`}},
		{"id expression", "dataset: {path: rows.jsonl, id: 'item.a + item.id'}", []string{`config.yaml:1:33: dataset.id: no row has the field "a"...`}},
		{"id does not compile", "dataset: {path: rows.jsonl, id: 'item.id +'}", []string{`config.yaml:1:...`}},
		{"where does not compile", "dataset: {path: rows.jsonl, where: 'itm.id == 1'}", []string{`config.yaml:1:37: dataset.where: unknown name itm...`}},
		{"where", "dataset: {path: rows.jsonl, where: 'item.ID == \"a\"'}", []string{`config.yaml:1:36: dataset.where: no row has the field "ID" (did you mean "id"?)`}},
		{"priority", "dataset: {path: rows.jsonl, priority: urgnt}", []string{`config.yaml:1:39: dataset.priority: there is no priority "urgnt" (did you mean "urgent"?)`}},
		{"priority of a field", "dataset: {path: rows.jsonl, priority: question}", []string{`config.yaml:1:39: dataset.priority: there is no priority "question"; there are bulk, normal, urgent; the field of a row is item.question`}},
		{"priority of no such field", "dataset: {path: rows.jsonl, priority: high}", []string{`config.yaml:1:39: dataset.priority: there is no priority "high"; there are bulk, normal, urgent`}},
		{"priority of no text", "dataset: {path: rows.jsonl, priority: 'true'}", []string{`config.yaml:1:39: dataset.priority: there is no priority "true"; there are bulk, normal, urgent`}},
		{"priority with a space", "dataset: {path: rows.jsonl, priority: 'normal '}", nil},
		{"priority of a turn", "dataset: {path: rows.jsonl, priority: last.text}", []string{`config.yaml:1:39: dataset.priority: fails for each of the first rows: got "", want bulk, normal or urgent; it is asked of a row, which has no turns yet`}},
		{"where of a turn", "dataset: {path: rows.jsonl, where: 'int(last.text) == 2'}", []string{`config.yaml:1:36: dataset.where: fails for each of the first rows: ...`}},
		{"priority of no field", "dataset: {path: rows.jsonl, priority: item.ID}", []string{`config.yaml:1:39: dataset.priority: no row has the field "ID" (did you mean "id"?)`}},
		{"priority that is none", "dataset: {path: rows.jsonl, priority: item.id}", []string{`config.yaml:1:39: dataset.priority: fails for each of the first rows: got "a", want bulk, normal or urgent`}},
		{"priority that is not text", "dataset: {path: rows.jsonl, priority: 'item?.level'}", []string{`config.yaml:1:39: dataset.priority: fails for each of the first rows: the expression gives null, want bulk, normal or urgent`}},
		{"priority of some", "dataset: {path: rows.jsonl, priority: 'item.id == \"a\" ? \"urgent\" : 7'}", nil},
		{"follow", "dataset: {path: rows.jsonl, follow: true}", nil},
		{"skip", "dataset: {path: rows.jsonl, skip: -1}", []string{`config.yaml:1:35: dataset.skip: got -1, want 0 or more`}},
		{"renamed from nothing", "dataset: {path: rows.jsonl, where: item.z == 1, rename: {z: qestion, id: id}}", []string{
			`config.yaml:1:61: dataset.rename.z: no row has the field "qestion" (did you mean "question"?)`}},
		{"message of a file that is not there", "dataset: {path: row.jsonl}", []string{`config.yaml:1:17: dataset.path: row.jsonl: no such file; did you mean rows.jsonl?`}},
		{"renamed", "dataset: {path: rows.jsonl, id: key, where: item.key == 'a', rename: {key: id}}", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, dir, err := build(t, test.dataset+rest)
			compare(t, err, dir, test.want)
		})
	}
}

// compare checks that err is config.Errors with these lines.
func compare(t *testing.T, err error, dir string, want []string) {
	t.Helper()
	var got []string
	if err != nil {
		var es config.Errors
		if !errors.As(err, &es) {
			t.Fatalf("got a %T, want config.Errors: %v", err, err)
		}
		for _, e := range es {
			got = append(got, strings.ReplaceAll(e.Error(), dir+string(filepath.Separator), ""))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got %d errors, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i, w := range want {
		prefix, cut := strings.CutSuffix(w, "...")
		if got[i] != w && (!cut || !strings.HasPrefix(got[i], prefix)) {
			t.Errorf("got  %s\nwant %s", got[i], w)
		}
	}
}

// The fields that a filtered dataset lacks are those of the rows that pass.
func TestFieldsOfTheRowsThatPass(t *testing.T) {
	const yaml = `
dataset: {path: rows.jsonl, id: id, where: "item.id == '%"}
roles: {a: {note: {say: "{{ item.source }}"}}}
flow: [a]
`
	if _, _, err := build(t, strings.Replace(yaml, "%", "b'", 1)); err != nil {
		t.Errorf("got %v, want no error: row b has the field", err)
	}
	_, dir, err := build(t, strings.Replace(yaml, "%", "a'", 1))
	compare(t, err, dir, []string{`config.yaml:3:25: roles.a.note.say: no row has the field "source"; there are answer, id, question`})
	if _, _, err := build(t, strings.Replace(yaml, "%", "c'", 1)); err != nil {
		t.Errorf("got %v, want no error: there is no row to tell", err)
	}
}

func TestSecretsStayOut(t *testing.T) {
	const secret = "sk-do-not-show-me"
	t.Setenv("MATRIX_TEST_KEY", secret)
	for _, model := range []string{
		`{base_url: "http://x:1", api_key: "${env:MATRIX_TEST_KEY}", timeout: -1s}`,
		`{base_url: "http://x:1", api_key: ["${env:MATRIX_TEST_KEY}"]}`,
		`{base_url: "http://user:${env:MATRIX_TEST_KEY}@x:1:2/"}`,
		`{base_url: "http://x:1", headers: {a: {b: "${env:MATRIX_TEST_KEY}"}}}`,
		`{base_url: "http://x:1", timeout: "${env:MATRIX_TEST_KEY}"}`,
	} {
		_, _, err := build(t, head+"models: {m: "+model+"}\nroles: {a: {note: {say: hi}}}\nflow: [a]\n")
		if err == nil {
			t.Errorf("%s: got no error", model)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the secret: %v", model, err)
		}
	}
}
