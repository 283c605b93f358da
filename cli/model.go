package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"matrix/internal/config"
	"matrix/llm"
)

// modelHelp says what may stand for a model on the command line.
const modelHelp = `MODEL is one of

  a config       a YAML file or a folder that holds config.yaml; --model NAME
                 chooses among its models
  an address     http://127.0.0.1:8000/v1: a server with the OpenAI API;
                 --model NAME is the model's name there, where it has several
  KIND:NAME      anthropic:claude-sonnet-4-5, openrouter:meta-llama/llama-3.3-70b,
                 sim:8b: a kind of model, and the model's name at the service
  VENDOR:NAME    openai:gpt-4o, groq:..., mistral:..., deepseek:..., together:...,
                 fireworks:..., cerebras:..., xai:...: a service whose address is
                 known; its key is that of the environment: OPENAI_API_KEY, ...`

// unnamedPatience is how long a server has to say which models it has.
const unnamedPatience = 3 * time.Second

// unnamed says which models the server of m has, where they are several and none
// is named: then the server chooses, or refuses. Else it is empty.
func unnamed(ctx context.Context, section *config.Section, m llm.Model) string {
	pr, ok := m.(llm.Prober)
	if !ok || section.Text("model") != "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, unnamedPatience)
	defer cancel()
	var names []string
	for _, e := range pr.Probe(ctx) {
		for _, s := range e.Served {
			if !slices.Contains(names, s.Name) {
				names = append(names, s.Name)
			}
		}
	}
	if len(names) < 2 {
		return ""
	}
	const most = 12
	list := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		list += ", ..."
	}
	return fmt.Sprintf("The server has the models %s, and none is named, so that it chooses one or refuses: name one by --model.", oneLine(list))
}
