package registry_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"matrix"
	"matrix/internal/config"
	"matrix/registry"
	"matrix/spec"
)

// A kind of agent of one's own: what its section holds, and how it is made.
type shout struct {
	Marks int `yaml:"marks" doc:"Exclamation marks at the end." default:"1"`
}

func newShout(b registry.Build, c shout) (matrix.Agent, error) {
	return matrix.AgentFunc(func(_ context.Context, t *matrix.Task) (matrix.Turn, error) {
		row, _ := t.Item.Any().(map[string]any)
		text := strings.ToUpper(fmt.Sprint(row["text"])) + strings.Repeat("!", c.Marks)
		return matrix.Turn{Role: b.Name, Text: text}, nil
	}), nil
}

func ExampleAgent() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	_ = os.WriteFile(filepath.Join(dir, "rows.jsonl"), []byte(`{"text": "hello"}`), 0o600)
	_ = os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(`
name: loud
dataset: {path: rows.jsonl}
roles:
  speaker: {shout: {marks: 3}}
flow: [speaker]
`), 0o600)

	r := registry.New()
	registry.Agent(r, "shout", newShout, registry.Inline())

	tree, err := config.Load(spec.Run{}, dir, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	var run spec.Run
	if err := tree.Decode(&run); err != nil {
		fmt.Println(err)
		return
	}
	plan, err := r.Build(tree, &run, registry.ToRun)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer plan.Close()

	fmt.Print(plan.Flow.Text())
	item, _ := matrix.ParseValue([]byte(`{"text": "hello"}`))
	turn, err := plan.Roles["speaker"].Agent.Act(context.Background(), &matrix.Task{Item: item})
	fmt.Println(turn.Text, err)
	// Output:
	// start
	//   └──> speaker
	// speaker  shout, inline
	//   └──> done
	// HELLO!!! <nil>
}
