package registry

import "testing"

// What sources look at in turns is known before the run: typos are found with
// their place, and what may be right is a warning at most.
func TestLooks(t *testing.T) {
	const roles = `models: {m: {kind: scripted, reply: x}}
roles:
  ask: {chat: {model: m, prompt: "{{ item.question }}"}}
  judge: {chat: {model: m, sees: [ask], prompt: Judge it., parse: {choice: [good, bad]}}}
  score: {compute: {score: "len(turn('ask').text)", why: "last.data.choice"}}
`
	tests := []struct {
		name string
		yaml string   // after roles, 7 lines with the head
		want []string // errors
		warn []string // where there are no errors
	}{
		{"all is well", `flow:
  - ask
  - {role: judge, stop: 'last.data.choice == "bad"'}
  - {role: score, stop: "last.data.score > 3 && turn('judge').data.choice in ['good']", finish: "last.data"}
metrics:
  m: turn("score").data.score
  n: 'map(turns_of("judge"), .data.choice == "good" ? 1 : 0)[0]'
  o: sum(map(turns, .call.usd ?? 0)) + len(first("ask").samples)
`, nil, nil},
		{"fields of compute", `flow:
  - ask
  - judge
  - {role: score, stop: "last.data.scor > 3", finish: "{a: last.data.reason}"}
metrics: {m: 'turn("score").data.scores', n: "last.data?.whyy ?? 1"}
`, []string{
			`config.yaml:11:36: flow.2.stop: last.data.scor is always nil: score makes no field "scor" (did you mean "score"?)`,
			`config.yaml:11:70: flow.2.finish: last.data.reason is always nil: score makes no field "reason"; there are score, why`,
			`config.yaml:12:34: metrics.m: turn("score").data.scores is always nil: score makes no field "scores" (did you mean "score"?)`,
		}, nil},
		{"what may be right", `flow:
  start: ask
  after:
    ask: judge
    judge:
      - {when: 'last.data.choice in ["good", "GOOD"] or last.data.x', to: score}
      - {fail: "{{ last.data.choice }}{% if last.data.choice != 'good' %}{{ last.data.choic }}{% endif %}{{ last.text }}"}
    score: {finish: "turn('ask').text"}
metrics: {n: "last.data?.whyy ?? 1", o: last.text}
`, nil, []string{
			`config.yaml:13:46: flow.after.judge.0.when: last.data.choice is never "GOOD" (did you mean "good"?)`,
			`config.yaml:13:67: flow.after.judge.0.when: last.data.x is always nil: judge makes no field "x"; there are choice`,
			`config.yaml:14:87: flow.after.judge.1.fail: last.data.choic is always nil: judge makes no field "choic" (did you mean "choice"?)`,
			`config.yaml:16:26: metrics.n: last.data.whyy is always nil: score makes no field "whyy" (did you mean "why"?)`,
			`config.yaml:16:46: metrics.o: last.text is always empty: score makes none`,
		}},
		{"options of a choice", `flow:
  start: ask
  after:
    ask: judge
    judge:
      - {when: 'last.data.choice == "god"', to: score}
      - {when: '"great" == last.data.choice', to: score}
      - {when: 'last.data.choice in ["good", "GOOD"]', to: score}
      - {when: 'last.data.chioce == "bad" || last.role == "judg"', to: score}
      - {fail: "{{ last.data.choice }}{% if last.data.choice == 'baad' %}{{ last.data.x }}{% endif %}"}
    score: {finish: true}
`, []string{
			`config.yaml:13:37: flow.after.judge.0.when: last.data.choice is never "god" (did you mean "good"?)`,
			`config.yaml:14:17: flow.after.judge.1.when: last.data.choice is never "great"; it is one of bad, good`,
			`config.yaml:16:27: flow.after.judge.3.when: last.data.chioce is always nil: judge makes no field "chioce" (did you mean "choice"?)`,
			`config.yaml:16:59: flow.after.judge.3.when: last.role is never "judg" (did you mean "judge"?)`,
			`config.yaml:17:65: flow.after.judge.4.fail: last.data.choice is never "baad" (did you mean "bad"?)`,
		}, nil},
		{"kinds of calls", `flow:
  start: ask
  after:
    ask: judge
    judge:
      - {when: 'last.calls[0].kind == "modle" || last.calls[0].usd > 1', to: score}
      - {when: 'any(last.calls, .kind == "tools")', to: score}
      - {when: 'last.calls[0].kind == "tool"', to: score}
    score: {finish: true}
`, []string{
			`config.yaml:13:39: flow.after.judge.0.when: last.calls[...].kind is never "modle" (did you mean "model"?)`,
			`config.yaml:14:42: flow.after.judge.1.when: last.calls[...].kind is never "tools" (did you mean "tool"?)`,
		}, nil},
		{"who acts before whom", `  early: {chat: {model: m, prompt: "{{ item.question }} {{ turn('ask').text }} {{ turn('score').data.score }}"}}
  late: {compute: {x: "turn('judge').data.choice", y: "rounds('late')", z: "last.text", w: "last.data.choice"}}
flow: [early, ask, judge, score, late]
`, []string{
			`config.yaml:9:103: roles.late.compute.w: last.data.choice is always nil: score makes no field "choice"; there are score, why`,
		}, nil},
		{"who has not acted yet", `  early: {chat: {model: m, prompt: "{{ item.question }} {{ turn('ask').text }} {{ turn('score').data.score }}"}}
  late: {compute: {x: "turn('judge').data.choice", y: "rounds('late')", z: "last.text"}}
flow: [early, ask, judge, score, late]
`, nil, []string{
			`config.yaml:8:60: roles.early.chat.prompt: turn("ask") is always empty here: ask has not acted by then`,
			`config.yaml:8:83: roles.early.chat.prompt: turn("score") is always empty here: score has not acted by then`,
			`config.yaml:9:82: roles.late.compute.z: last.text is always empty: score makes none`,
		}},
		{"a loop", `  again: {compute: {n: "turn('judge').data.choice", m: "last.data.score ?? last.data.choice"}}
flow:
  open: [{role: user, text: hi}]
  start: again
  after:
    again: [{when: "rounds('again') > 3", finish: turn("user").text}, {to: ask}]
    ask: [{when: "last.data.x", to: judge}, {to: judge}]
    judge: score
    score: again
`, []string{
			`config.yaml:14:29: flow.after.ask.0.when: last.data.x is always nil: ask makes no data, it has no parse`,
		}, nil},
		{"schemas, regular expressions, vectors and tools", `  json: {chat: {model: m, sees: [ask], prompt: p, parse: {schema: {properties: {score: {enum: [low, high]}, open: {}}}}}}
  shut: {chat: {model: m, sees: [ask], prompt: p, parse: {schema: {additionalProperties: false, properties: {tags: {items: {properties: {name: {}}, additionalProperties: false}}}}}}}
  find: {chat: {model: m, sees: [ask], prompt: p, parse: {regex: '(?P<first>\w+) (?P<rest>.*)'}}}
  tool: {command: {run: [cat]}}
flow: [ask, judge, score, json, shut, find, tool]
metrics:
  a: turn("json").data.scor
  b: turn("json").data.anything
  c: turn("json").data.score == "hgh"
  d: turn("shut").data.tags[0].nam
  e: turn("shut").data.other
  f: turn("find").data.frist
  g: turn("tool").data.anything.at.all
  h: turn("tool").tool_results[0].contnt
  i: turn("find").samples[0].data.last
  j: turn("json").data.open.anything
`, []string{
			`config.yaml:16:33: metrics.c: turn("json").data.score is never "hgh" (did you mean "high"?)`,
			`config.yaml:17:32: metrics.d: turn("shut").data.tags[...].nam is always nil: shut makes no field "nam" (did you mean "name"?)`,
			`config.yaml:18:24: metrics.e: turn("shut").data.other is always nil: shut makes no field "other"; there are tags`,
			`config.yaml:19:24: metrics.f: turn("find").data.frist is always nil: find makes no field "frist" (did you mean "first"?)`,
			`config.yaml:22:35: metrics.i: turn("find").samples[...].data.last is always nil: find makes no field "last"; there are first, rest`,
		}, nil},
		{"before anybody acts, and after an error", `  fix: {compute: {n: 1}}
flow:
  open: [{role: user, text: "{{ turn('ask').text }}"}]
  start: [{when: "last.text != '' && turn('score').data.score > 1", to: fix}, {when: "turn('judge').text == ''", to: ask}, {fail: "{{ last.data.x }}"}]
  after:
    ask: judge
    judge: score
    score: {finish: "turns_of('judge')[0].data.choice"}
    fix: {finish: "last.data"}
  on_error:
    ask: [{when: "turn('score').data.score > 1 || turn('ask').text == ''", to: fix}, {finish: "last.data.anything"}]
`, nil, []string{
			`config.yaml:10:33: flow.open.0.text: turn("ask") is always empty here: ask has not acted by then`,
			`config.yaml:11:87: flow.start.1.when: turn("judge") is always empty here: judge has not acted by then`,
			`config.yaml:18:19: flow.on_error.ask.0.when: turn("score") is always empty here: score has not acted by then`,
		}},
		{"elements of turns_of", `flow: [ask, judge, {role: score, finish: "[turns_of('judge')[-1].data.choce, turns_of('ask')[0].text]"}]
`, []string{
			`config.yaml:8:71: flow.2.finish: turn("judge").data.choce is always nil: judge makes no field "choce" (did you mean "choice"?)`,
		}, nil},
		{"a schema that forbids nothing", `  json: {chat: {model: m, sees: [ask], prompt: p, parse: {schema: {properties: {score: {enum: [low, high]}, open: {}}}}}}
flow: [ask, judge, score, json]
metrics:
  a: turn("json").data.scor
  b: turn("json").data.anything
`, nil, []string{
			`config.yaml:11:24: metrics.a: turn("json").data.scor: the schema of json does not know the field "scor" (did you mean "score"?)`,
		}},
		{"habits of other languages", `  habit:
    compute:
      a: ask.text
      b: question
      c: text == True
      d: length(item.question)
      e: turns.ask.text
      f: '"{{ item.question }}"'
      g: item.question is None
      h: item.question = 1
  other: {chat: {model: m, prompt: "{{ ask.text }}"}}
  third: {chat: {model: m, prompt: "{{ len(item.question) }}"}}
flow: [ask, judge, score, habit, other, third]
`, []string{
			`config.yaml:10:10: roles.habit.compute.a: unknown name ask; what the role ask said last is turn("ask").text`,
			`config.yaml:11:10: roles.habit.compute.b: unknown name question; the field of the row is item.question`,
			`config.yaml:12:10: roles.habit.compute.c: unknown name text...`,
			`config.yaml:13:10: roles.habit.compute.d: unknown function length, did you mean len(x)?`,
			`config.yaml:14:16: roles.habit.compute.e: turns is the list of all turns, it has no field ask: turn("ask") is the newest turn of role ask`,
			`config.yaml:16:...`,
			`config.yaml:17:...`,
			`config.yaml:18:40: roles.other.chat.prompt: unknown name ask; what the role ask said last is turn("ask").text`,
			`config.yaml:19:40: roles.third.chat.prompt: unknown function len, did you mean x | length?`,
		}, nil},
		{"prompts without the row", `  joke: {chat: {model: m, prompt: "Tell a joke about {question}."}}
  same: {chat: {model: m, prompt: Tell a joke.}}
  half: {chat: {model: m, prompt: "{{ item.question }}, not {item.answer}, but {\"score\": 1}"}}
  cut:
    chat:
      sees: [ask]
      model: m # a comment
      prompt: Compare item #1 and {{ item.question }}.
flow: [ask, judge, score, joke, same, half, cut]
`, nil, []string{
			`config.yaml:8:35: roles.joke.chat.prompt: asks the same for every row: no field of the row is in it; {{ item.FIELD }} puts one there`,
			`config.yaml:8:54: roles.joke.chat.prompt: {question} is plain text; {{ item.question }} is replaced`,
			`config.yaml:9:35: roles.same.chat.prompt: asks the same for every row...`,
			`config.yaml:10:61: roles.half.chat.prompt: {item.answer} is plain text; {{ item.answer }} is replaced`,
			`config.yaml:15:15: roles.cut.chat.prompt: YAML takes "#1 and {{ item.question }}." as a comment and leaves it out: put the value in quotes, or write it as a block behind |`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			plan, dir, err := build(t, head+roles+test.yaml)
			compare(t, err, dir, test.want)
			if err == nil {
				compare(t, plan.Warnings.Sorted(), dir, test.warn)
			}
		})
	}
}

// A chat that replies to turns alone cannot be the first to act.
func TestLooksMute(t *testing.T) {
	const roles = `models: {m: {kind: scripted, reply: x}}
roles:
  ann: {chat: {model: m, sees: [ann, bob]}}
  bob: {chat: {model: m, sees: [ann, bob], prompt: Go on.}}
`
	const why = `config.yaml:5:32: roles.ann.chat.sees: there is nothing to reply to: every task begins with ann, and no turn of ann or bob is there yet; give the role a prompt, or the flow an opening turn (open)`
	for flow, want := range map[string][]string{
		"flow: [ann, bob]": {why},
		"flow: {start: ann, after: {ann: bob, bob: [{when: 'rounds(\"bob\") > 2', finish: last.text}, {to: ann}]}}": {why},
		"flow: [bob, ann]": nil,
		"flow: {start: ann, open: [{role: bob, text: Hello.}], after: {ann: bob, bob: [{finish: last.text}]}}":                                  nil,
		"flow: {start: [{when: 'item.question != \"\"', to: bob}, {to: ann}], after: {ann: [{finish: last.text}], bob: [{finish: last.text}]}}": nil,
	} {
		_, dir, err := build(t, head+roles+flow+"\n")
		t.Log(flow)
		compare(t, err, dir, want)
	}
}

// A text where a list is meant is one option.
func TestSoleOption(t *testing.T) {
	plan, dir, err := build(t, head+`
models: {m: {kind: scripted, reply: x}}
roles:
  a: {chat: {model: m, prompt: "{{ item.id }}", parse: {choice: "good, bad or ugly"}}}
  b: {chat: {model: m, prompt: "{{ item.id }}", parse: {choice: [good]}}}
  c: {complete: {model: m, prompt: "{{ item.id }}", parse: {choice: [good, "bad, ugly"]}}}
flow: [a, b, c]
`)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, plan.Warnings.Sorted(), dir, []string{
		`config.yaml:6:65: roles.a.chat.parse.choice: is one option, "good, bad or ugly"; several are a list: [good, bad, ugly]`,
		`config.yaml:7:65: roles.b.chat.parse.choice: is one option, "good"; several are a list: [yes, no]`,
	})
}

// A param that the command line sets and nothing refers to is a name mistyped.
func TestIdleParams(t *testing.T) {
	for yaml, want := range map[string][]string{
		`roles: {a: {chat: {model: m, system: "${used} of params.mine", prompt: "{{ item.id }} {{ params.said }} {{ params['quoted'] }}"}}}`: {
			`command line: +datset.limit=3: params.datset: is set, and nothing in the config refers to it (did you mean "dataset"?)`,
			`command line: +limit=3: is set, and nothing in the config refers to it (did you mean "dataset.limit"?)`,
			`command line: +nme=1: is set, and nothing in the config refers to it (did you mean "name"?)`,
			`command line: given=2: is set, and nothing in the config refers to it`,
		},
		`roles: {a: {chat: {model: m, prompt: "{{ item.id }} {{ params | tojson }}"}}}`: nil,
		`roles: {a: {command: {run: [cat]}}}`:                                           nil, // it is given all of them
	} {
		plan, dir, err := build(t, head+"\nparams: {given: 1, unused: 1}\nmodels: {m: {kind: scripted, reply: x}}\nflow: a\n"+yaml+"\n",
			"+limit=3", "+datset.limit=3", "+nme=1", "+used=1", "+mine=1", "+said=1", "+quoted=1", "given=2")
		if err != nil {
			t.Fatal(err)
		}
		compare(t, plan.Warnings, dir, want)
	}
}

// Rows have no turns yet.
func TestLooksOfRows(t *testing.T) {
	plan, dir, err := build(t, `
dataset: {path: rows.jsonl, id: "item.id + last.text", where: "turn('ask').text == '' || last.data.x == nil"}
models: {m: {kind: scripted, reply: x}}
roles: {ask: {chat: {model: m, prompt: "{{ item.question }}"}}}
flow: ask
`)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, plan.Warnings.Sorted(), dir, []string{
		`config.yaml:2:...`,
		`config.yaml:2:...`,
		`config.yaml:2:...`,
	})
}
