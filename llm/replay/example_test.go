package replay_test

import (
	"context"
	"fmt"
	"strings"

	"matrix/llm"
	"matrix/llm/replay"
)

func ExampleNewScripted() {
	m, err := replay.NewScripted("shouter", replay.Scripted{Reply: func(r *llm.Request) (llm.Choice, error) {
		return llm.Choice{Text: strings.ToUpper(r.Messages[len(r.Messages)-1].Content)}, nil
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	reply, err := m.Do(context.Background(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "hello"}}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(reply.Choices[0].Text)
	// Output: HELLO
}
