package bedrock

import "encoding/json"

// The bodies of Converse and ConverseStream, as far as they are used. Of the
// pointers of a block, one is set.

type request struct {
	System    []block         `json:"system,omitempty"`
	Messages  []message       `json:"messages"`
	Inference *inference      `json:"inferenceConfig,omitempty"`
	Tools     *toolConfig     `json:"toolConfig,omitempty"`
	Output    *output         `json:"outputConfig,omitempty"`
	Extra     json.RawMessage `json:"additionalModelRequestFields,omitempty"`
	Guardrail *guardrail      `json:"guardrailConfig,omitempty"`
}

type message struct {
	Role    string  `json:"role"` // user or assistant
	Content []block `json:"content"`
}

type block struct {
	Text      *string     `json:"text,omitempty"`
	Image     *image      `json:"image,omitempty"`
	ToolUse   *toolUse    `json:"toolUse,omitempty"`
	Result    *toolResult `json:"toolResult,omitempty"`
	Reasoning *reasoning  `json:"reasoningContent,omitempty"`
	Citations *struct {
		Content []block `json:"content"`
	} `json:"citationsContent,omitempty"` // of a reply
}

type image struct {
	Format string `json:"format"`
	Source struct {
		Bytes []byte `json:"bytes"`
	} `json:"source"`
}

type toolUse struct {
	ID    string          `json:"toolUseId"`
	Name  string          `json:"name"`
	Input json.RawMessage `json:"input"`
}

type toolResult struct {
	ID      string  `json:"toolUseId"`
	Content []block `json:"content"`
	Status  string  `json:"status,omitempty"` // error: the tool could not do it
}

type reasoning struct {
	Text     *reasoningText `json:"reasoningText,omitempty"`
	Redacted []byte         `json:"redactedContent,omitempty"`
}

type reasoningText struct {
	Text      string `json:"text"`
	Signature string `json:"signature,omitempty"`
}

type inference struct {
	MaxTokens   *int32   `json:"maxTokens,omitempty"`
	Temperature *float64 `json:"temperature,omitempty"`
	TopP        *float64 `json:"topP,omitempty"`
	Stop        []string `json:"stopSequences,omitempty"`
}

type toolConfig struct {
	Tools  []tool      `json:"tools"`
	Choice *toolChoice `json:"toolChoice,omitempty"`
}

type tool struct {
	Spec toolSpec `json:"toolSpec"`
}

type toolSpec struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Schema      struct {
		JSON json.RawMessage `json:"json"`
	} `json:"inputSchema"`
	Strict bool `json:"strict,omitempty"`
}

type toolChoice struct {
	Auto *struct{} `json:"auto,omitempty"`
	Any  *struct{} `json:"any,omitempty"`
	Tool *named    `json:"tool,omitempty"`
}

type named struct {
	Name string `json:"name"`
}

type output struct {
	Effort string      `json:"effort,omitempty"`
	Format *textFormat `json:"textFormat,omitempty"`
}

type textFormat struct {
	Type      string `json:"type"` // json_schema
	Structure struct {
		Schema jsonSchema `json:"jsonSchema"`
	} `json:"structure"`
}

type jsonSchema struct {
	Name   string `json:"name,omitempty"`
	Schema string `json:"schema"` // JSON
}

type guardrail struct {
	ID      string `json:"guardrailIdentifier"`
	Version string `json:"guardrailVersion"`
}

type reply struct {
	Output struct {
		Message *message `json:"message"`
	} `json:"output"`
	Stop  string `json:"stopReason"`
	Usage usage  `json:"usage"`
}

// usage counts tokens. Input are those that were neither read from a cache nor
// written to one:
// https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html
type usage struct {
	Input  int `json:"inputTokens"`
	Output int `json:"outputTokens"`
	Read   int `json:"cacheReadInputTokens"`
	Write  int `json:"cacheWriteInputTokens"`
}

// piece is an event of a stream; its type says what of it is set.
type piece struct {
	Index int `json:"contentBlockIndex"`
	Start struct {
		ToolUse *toolUse `json:"toolUse"`
	} `json:"start"`
	Delta struct {
		Text    string `json:"text"`
		ToolUse *struct {
			Input string `json:"input"`
		} `json:"toolUse"`
		Reasoning *struct {
			Text      string `json:"text"`
			Signature string `json:"signature"`
			Redacted  []byte `json:"redactedContent"`
		} `json:"reasoningContent"`
	} `json:"delta"`
	Stop  string `json:"stopReason"`
	Usage usage  `json:"usage"`
}
