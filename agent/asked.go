package agent

import (
	"context"

	"matrix"
	"matrix/llm"
)

// Prompter is an agent that has a prompt.
type Prompter interface {
	// Prompt is a hash of the templates, as calls have it.
	Prompt() string
}

// Asker is an agent that asks a model for text, and can say again what it asked.
type Asker interface {
	matrix.Agent

	// Asked is what the agent asks about a task with these turns: the conversation
	// with its images, or the text to be continued, and the tools. How the reply is
	// drawn and read is not in it.
	Asked(context.Context, *matrix.Task) (llm.Request, error)

	// Revision is the hash of the agent's templates, as Prompt of its calls.
	Revision() string
}

var (
	_ Asker = (*chat)(nil)
	_ Asker = (*complete)(nil)
	_ Asker = (*request)(nil)
)

// Revision implements Asker.
func (a *modelCaller) Revision() string { return a.hash }
