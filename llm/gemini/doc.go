// Package gemini is the driver of Google's Gemini models, through the Gemini API
// (a key) or Vertex AI (a project, and application default credentials).
//
// The format is that of https://ai.google.dev/api/generate-content and
// https://cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/GenerateContentResponse,
// errors of https://ai.google.dev/gemini-api/docs/troubleshooting, structured
// output of .../docs/structured-output (responseJsonSchema; a choice as
// text/x.enum), thinking of .../docs/thinking, thought signatures of
// .../docs/thought-signatures.
//
// What differs from other services:
//
//   - A seed has 31 bits: a longer one is folded, and Params tell what was sent.
//   - reasoning_effort is thinkingConfig.thinkingLevel; thoughts come as Reasoning
//     where extra_body asks for them (generationConfig: {thinkingConfig:
//     {includeThoughts: true}}). Its keys are those of the service, and are laid
//     over what is sent map by map.
//   - Thought signatures are the Choice's Opaque, and go back on the parts that
//     they came with. Calls that have none, as those of another model, carry the
//     documented text that has models from Gemini 3 on do without.
//   - A conversation that is too long is an INVALID_ARGUMENT like any other, so its
//     Kind is Refused. There are no quota headers, and no idempotency keys.
//   - A prompt or a reply that the safety filters block is Refused; a reply of
//     which there is some text keeps it, under the filter's finish reason.
//
// The package knows nothing of waiting, retrying and limits.
package gemini
