// Package usage declares once what calls of models use up, for packages that may not
// import each other: a call's account in the llm package, in a task's turns and in
// the totals of a run.
package usage

// Tokens counts the tokens of a call of a model, or of several.
type Tokens struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	CachedTokens     int `json:"cached_tokens,omitempty"`      // of the prompt's, read from the service's cache
	CacheWriteTokens int `json:"cache_write_tokens,omitempty"` // of the prompt's, written into the service's cache; none of them are CachedTokens
	ReasoningTokens  int `json:"reasoning_tokens,omitempty"`   // of the completion's
}

// Add adds x so many times; -1 takes it away.
func (t *Tokens) Add(x Tokens, times int) {
	t.PromptTokens += times * x.PromptTokens
	t.CompletionTokens += times * x.CompletionTokens
	t.CachedTokens += times * x.CachedTokens
	t.CacheWriteTokens += times * x.CacheWriteTokens
	t.ReasoningTokens += times * x.ReasoningTokens
}
