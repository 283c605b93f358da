package registry

// vendorConfig is a config whose one model is %s.
const vendorConfig = `
name: x
dataset: {path: rows.jsonl}
models:
  m: {%s}
roles:
  a: {chat: {model: m, prompt: go}}
flow: [a]
`
