package registry

import (
	"errors"
	"maps"
	"slices"

	"matrix"
	"matrix/lang"
	"matrix/llm"
	"matrix/llm/openai"
	"matrix/llm/replay"
)

// openAI reaches one server, at base_url, or several, at endpoints.
func openAI(b Build, c openai.Config) (llm.Model, error) {
	at := c.Endpoints
	switch {
	case c.BaseURL != "" && len(at) > 0:
		return nil, &lang.FieldError{Field: "endpoints", Err: errors.New("a model has base_url or endpoints, not both")}
	case c.BaseURL != "":
		at = llm.Endpoints{{URL: c.BaseURL}}
	case len(at) == 0 && len(b.Served) > 0:
		at = b.Served
	case len(at) == 0:
		return nil, &lang.FieldError{Field: "base_url", Err: errors.New("is missing: write the server's address, such as http://127.0.0.1:8000/v1, or endpoints")}
	}
	c.Named = c.Model
	return llm.New(b.Name, c.Service, at, c.Open)
}

func replayed(b Build, c replay.Config) (llm.Model, error) {
	b.notes.replays[b.Name] = c.Path
	return replay.New(b.Name, c)
}

// scripted makes a model that replies by a template or from lists. The template
// sees item, id, trial and params, and of the call: role, who speaks; prompt,
// the last message; system, the system message; messages, all of them; nth and
// reask, which call it is.
func scripted(b Build, c replay.ScriptedConfig) (llm.Model, error) {
	s := replay.Scripted{Delay: c.Delay}
	switch {
	case c.Reply != "" && c.Replies != nil:
		return nil, &lang.FieldError{Field: "replies", Err: errors.New("a model has reply or replies, not both")}
	case c.Replies != nil:
		reply, err := replay.ReplyList(c.Replies)
		if err != nil {
			return nil, err
		}
		s.Reply = reply
		if lists, ok := c.Replies.(map[string]any); ok {
			b.notes.voices[b.Name] = slices.Sorted(maps.Keys(lists))
		}
	case c.Reply != "":
		t, err := lang.CompileTemplate(c.Reply, b.Params, "role", "prompt", "system", "messages", "nth", "reask")
		if err != nil {
			return nil, &lang.FieldError{Field: "reply", Err: err}
		}
		if len(t.TurnRefs()) > 0 || len(t.Roles()) > 0 {
			return nil, &lang.FieldError{Field: "reply", Err: errors.New("a scripted model sees no turns (last, turn(...), rounds(...)), but what it is sent, as a service does: prompt, system, messages; and item, id, trial, params, role, nth, reask")}
		}
		b.reads("reply", t.Fields())
		s.Reply = func(r *llm.Request) (llm.Choice, error) { return script(t, r) }
	}
	return replay.NewScripted(b.Name, s)
}

// script renders the reply to r.
func script(t *lang.Template, r *llm.Request) (llm.Choice, error) {
	item, err := matrix.NewValue(r.Ask.Item)
	if err != nil {
		return llm.Choice{}, err
	}
	call := map[string]any{"role": r.Ask.Role, "nth": r.Ask.Nth, "reask": r.Ask.Reask, "prompt": r.Prompt, "system": ""}
	messages := make([]any, len(r.Messages))
	for i, m := range r.Messages {
		messages[i] = map[string]any{"role": m.Role, "content": m.Content}
		if m.Role == "system" && call["system"] == "" {
			call["system"] = m.Content
		} else if i == len(r.Messages)-1 {
			call["prompt"] = m.Content
		}
	}
	call["messages"] = messages
	text, err := t.Render(&matrix.Task{ID: r.Ask.ID, Row: r.Ask.ID, Trial: r.Ask.Trial, Item: item}, call)
	return llm.Choice{Text: text}, err
}
