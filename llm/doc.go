// Package llm is a client of large language models: a Model answers
// requests, whatever stands behind it (an OpenAI-compatible server, a script,
// a file of recorded replies).
//
// A Model carries a call to its end. Whatever a service does when it is busy
// or out (429, 5xx, resets, timeouts, garbage) is retried inside Do until it
// succeeds or the context ends; what comes out is a reply, or an *Error whose
// Kind is its one fate. The package knows nothing of tasks, roles or runs: a
// request carries an Ask that says who asks, for models that answer by that.
package llm
