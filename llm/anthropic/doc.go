// Package anthropic is the driver of Anthropic's Messages API.
//
// The format is that of https://platform.claude.com/docs/en/api/messages,
// streams of .../docs/en/build-with-claude/streaming, errors of
// .../docs/en/api/errors, structured output (output_config.format) of
// .../docs/en/build-with-claude/structured-outputs, prompt caching of
// .../docs/en/build-with-claude/prompt-caching.
//
// What differs from other services:
//
//   - max_tokens must be sent: Options.MaxTokens where a call does not say.
//   - There is no seed, no n, and no idempotency key; they are left out. There are
//     no penalties, logprobs, embeddings, and no format but a JSON Schema; who
//     asks for one of these is refused before anything is sent.
//   - All system messages are sent in front, whatever their place.
//   - How a model thinks is asked for by extra_body (thinking: {type: adaptive}),
//     and comes as Reasoning. Blocks that are signed (thinking, redacted_thinking)
//     are the Choice's Opaque, and go back as they came, where they were among
//     texts and tool calls: .../docs/en/build-with-claude/extended-thinking.
//   - A conversation that is too long is an invalid_request_error like any other,
//     so its Kind is Refused; Context is what is too large in bytes.
//   - The same holds for a spend limit that an organization set itself. That of
//     its tier has a code of its own, and is Fatal.
//
// The package knows nothing of waiting, retrying and limits.
package anthropic
