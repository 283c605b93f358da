package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// crashTrees has each row become some tasks, or none, and these become others: some
// wait for theirs and some do not. Of the smallest some fail and some are dropped, and
// every third row makes a second brood once it has heard of the first.
const crashTrees = `
name: trees
seed: 11
live: 60
trials: 2
max_failed: none
dataset: {path: rows.jsonl, id: id}
output: {rows_per_part: 500, compress: %s, dropped: full}
models:
  a: {kind: scripted, reply: "{{ role }} of {{ item.id }}, trial {{ trial }}, turn {{ nth }}: {{ prompt }}"}
roles:
  split: {inline: false, compute: {parts: 'map(1..(1 + item.n %% 7), # * 10 + item.n)'}}
  ask: {chat: {model: a, prompt: "{{ item.part }}, {{ parent.index }} of {{ parent.count }}"}}
  pairs: {compute: {of: 'take(map(1..5, ({"n": #, "said": last.text})), item.part %% 6)'}}
  judge: {chat: {model: a, prompt: "{{ item.pair.n }} {{ item.pair.said }}"}}
  vote: {inline: false, compute: {kept: 'map(filter(children, .status == "done"), .value)', lost: 'map(filter(children, .status != "done"), .cause)'}}
  sum: {compute: {of: 'map(children, [.id, .status, .value])', again: 'item.n %% 3 == 0 && rounds("sum") == 1'}}
flow:
  start: split
  after:
    split: {expand: last.data.parts, as: part, to: ask, omit: text, carry: split, then: sum}
    ask: pairs
    pairs:
      - {when: 'item.part %% 4 == 0', expand: last.data.of, as: pair, to: judge, carry: ask}
      - {expand: last.data.of, as: pair, to: judge, then: vote}
    judge:
      - {when: '(item.n + item.pair.n) %% 6 == 0', fail: "pair {{ item.pair.n }} of {{ parent.id }} fails"}
      - {when: '(item.n + item.pair.n) %% 4 == 0', drop: "pair {{ item.pair.n }} is not wanted"}
      - {finish: last.text}
    vote: {finish: last.data}
    sum:
      - {when: last.data.again, expand: '[item.n, item.n + 1]', as: part, to: ask, then: sum}
      - {when: 'item.n %% 23 == 0', fail: "row {{ item.n }} fails with {{ children | length }} parts"}
      - {finish: last.data}
`

// TestCrashTrees kills a run of rows that become other tasks, which come together
// again, at random moments, types the same command again, and compares.
func TestCrashTrees(t *testing.T) {
	t.Parallel()
	kills := crashShare(crashKills(t))
	bin := buildMatrix(t)
	const rows = 150
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance starts from %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var want map[string]string
	for round, killed := 0, 0; killed < kills; round++ {
		h := &crashBed{T: t, bin: bin, rng: rng, dir: t.TempDir(), shards: 1 + round%2*2}
		h.write(fmt.Sprintf(crashTrees, []string{"none", "zstd"}[round%2]), rows)
		if want == nil {
			h.out = filepath.Join(h.dir, "undisturbed")
			if code := h.run(0); code != 0 {
				t.Fatalf("undisturbed run: exit %d\n%s", code, h.log())
			}
			want = h.output()
			ends := map[string]int{}
			for _, line := range want {
				ends[strings.Fields(line)[0]]++
			}
			t.Logf("undisturbed: %v", ends)
			if len(ends) != len(crashOutputs) {
				t.Fatalf("undisturbed run: tasks end in %v, want some in each of %v", ends, crashOutputs)
			}
		}
		h.out = filepath.Join(h.dir, "crashed")
		killed += h.crash(min(kills-killed, 20))
		if out, err := exec.Command(bin, "verify", h.out, "--complete").CombinedOutput(); err != nil {
			t.Fatalf("verify --complete: %v\n%s", err, out)
		}
		if got := h.output(); !maps.Equal(got, want) {
			t.Errorf("after %d kills the output differs from an undisturbed run's:\n%s", killed, difference(got, want))
		}
	}
	t.Logf("%d kills, %d tasks each round: nothing lost, nothing doubled", kills, len(want))
}

// crashShare is the kills of a test beside TestCrash: as many where many are asked
// for, and a share of the few that each change is tested with.
func crashShare(kills int) int {
	if kills >= 100 {
		return kills
	}
	return (kills + 3) / 4
}
