package session

import (
	"cmp"
	"context"
	"slices"

	"matrix/agent"
)

// OlderPrompt says how many of the tasks that are done were asked by a role with another
// prompt than it has now.
type OlderPrompt struct {
	Role   string
	Prompt string // as calls have it
	Tasks  int64
}

// countOlder counts them, where the config was changed so that there may be some.
func (s *Session) countOlder(ctx context.Context) error {
	if !s.Folder.OtherRoles {
		return nil
	}
	type key struct{ role, prompt string }
	now, counts := map[string]string{}, map[key]int64{}
	for name, role := range s.Plan.Roles {
		if p, ok := role.Agent.(agent.Prompter); ok {
			now[name] = p.Prompt()
		}
	}
	for t, err := range s.Folder.Done(ctx) {
		if err != nil {
			return err
		}
		last := map[string]string{}
		for i := range t.Turns {
			if c := t.Turns[i].Call(); c != nil && c.Prompt != "" {
				last[t.Turns[i].Role] = c.Prompt
			}
		}
		for role, prompt := range last {
			if is, ok := now[role]; ok && is != prompt {
				counts[key{role, prompt}]++
			}
		}
	}
	for k, n := range counts {
		s.older = append(s.older, OlderPrompt{k.role, k.prompt, n})
	}
	slices.SortFunc(s.older, func(a, b OlderPrompt) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(b.Tasks, a.Tasks), cmp.Compare(a.Prompt, b.Prompt))
	})
	return nil
}

// Older are the prompts that done tasks have and that are others now: of a config whose
// changes were accepted.
func (s *Session) Older() []OlderPrompt { return s.older }
