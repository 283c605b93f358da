package llm

// absurd is more than any call takes: of tokens, and of dollars.
const absurd = 1e9

// reported is u without what cannot be so: a number below 0 or beyond all reason
// counts as not told.
func (u Usage) reported() Usage {
	for _, n := range []*int{&u.PromptTokens, &u.CompletionTokens, &u.CachedTokens, &u.CacheWriteTokens, &u.ReasoningTokens} {
		if *n < 0 || *n > absurd {
			*n = 0
		}
	}
	if !(u.USD >= 0 && u.USD <= absurd) {
		u.USD = 0
	}
	return u
}

// counted says that the service said what a call cost.
func (u Usage) counted() bool { return !u.Estimated && (u.PromptTokens > 0 || u.USD > 0) }

// complete estimates what the service did not count of rep, the reply to r: 4
// bytes a token, and for what drivers have estimated at least that.
func (u *Usage) complete(r *Request, rep *Reply) {
	said := 0
	for i := range rep.Choices {
		c := &rep.Choices[i]
		said += len(c.Text) + len(c.Reasoning)
		for k := range c.ToolCalls {
			said += len(c.ToolCalls[k].Name) + len(c.ToolCalls[k].Arguments)
		}
	}
	if u.Estimated || u.CompletionTokens == 0 && said > 0 {
		u.CompletionTokens, u.Estimated = max(u.CompletionTokens, (said+3)/4), true
	}
	if u.PromptTokens == 0 {
		u.PromptTokens, _ = expected(r)
		u.Estimated = u.Estimated || u.PromptTokens > 0
	}
}
