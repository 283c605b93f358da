package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"matrix/agent"
	"matrix/internal/config"
	"matrix/lang"
)

// shed is a kind of pool of the tests' own.
type shed struct {
	Image string `yaml:"image" doc:"Template of a name."`
	In    string `yaml:"in" doc:"A pool."`
}

type shedPool struct {
	image *lang.Template
	in    agent.Pool
}

func (p *shedPool) Mentions() []agent.Mention {
	return []agent.Mention{{Key: "image", Source: p.image, Roles: p.image.Roles()}}
}
func (p *shedPool) Check(context.Context) error           { return nil }
func (p *shedPool) Release(context.Context, string) error { return nil }
func (p *shedPool) Close() error                          { return nil }

func newShed(b Build, c shed) (agent.Pool, error) {
	t, err := lang.CompileTemplate(c.Image, b.Params)
	if err != nil {
		err = &lang.FieldError{Field: "image", Err: err}
	}
	p := &shedPool{image: t}
	if c.In != "" {
		in, bad := b.PoolNamed("in", c.In)
		p.in, err = in, errors.Join(err, bad)
	}
	return p, err
}

const pooled = `
dataset: {path: rows.jsonl, id: id}
roles: {a: {note: {say: "{{ item.question }}"}}}
flow: [a]
pools:
`

func TestPools(t *testing.T) {
	kinds := testRegistry()
	PoolKind(kinds, "shed", newShed)
	PoolKind(kinds, "annexe", newShed, After())
	for name, tt := range map[string]struct {
		pools string
		want  []string // in the error; none: it is well
	}{
		"well, in any order":          {"  a: {kind: annexe, in: z}\n  z: {kind: shed, image: '{{ item.question }}'}\n", nil},
		"no kind":                     {"  a: {image: x}\n", []string{"config.yaml:6", "pools.a", "needs a kind", "shed"}},
		"unknown kind":                {"  a: {kind: shad}\n", []string{"config.yaml:6", "pools.a.kind", `did you mean "shed"`}},
		"unknown key":                 {"  a: {kind: shed, imag: x}\n", []string{"pools.a.imag", "image"}},
		"unknown pool":                {"  a: {kind: annexe, in: zz}\n  z: {kind: shed}\n", []string{"pools.a.in", `no pool "zz"`, "z"}},
		"field that no row has":       {"  a: {kind: shed, image: '{{ item.qestion }}'}\n", []string{"pools.a.image", "qestion"}},
		"a turn, where there is none": {"  a: {kind: shed, image: '{{ turn(\"a\").text }}'}\n", []string{"pools.a.image", "turn"}},
		"a container of nothing":      {"  a: {kind: podman}\n", []string{"config.yaml:6", "pools.a.image", "is missing"}},
		"a key of another kind":       {"  a: {kind: plain, image: x}\n", []string{"pools.a.image"}},
		"what does not fit":           {"  a: {kind: plain, restore: disk}\n", []string{"pools.a", "restore: disk"}},
		"no such limit":               {"  a: {kind: bwrap, limits: {memory: lots}}\n", []string{"pools.a.limits.memory", "lots"}},
		"a name that is none":         {"  1a: {kind: shed}\n", []string{`"1a" is not a name for a pool`}},
	} {
		t.Run(name, func(t *testing.T) {
			plan, _, err := buildWith(t, kinds, pooled+tt.pools)
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if a := plan.Pools["a"].(*shedPool); a.in != plan.Pools["z"] {
					t.Errorf("pool a is in %v, want the pool z", a.in)
				}
				return
			}
			if err == nil {
				t.Fatalf("no error; want one with %q", tt.want)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v\nwant %q in it", err, w)
				}
			}
		})
	}
	if !slices.ContainsFunc(kinds.Parts(), func(p config.Part) bool { return p.At == "pools.*" && p.Kind == "shed" }) {
		t.Error("the reference does not know the kind")
	}
}
