// Package agent has the agents that a config can name: Chat asks a model,
// Complete has one go on with a text, Embed has one make vectors of texts,
// Request sends one messages or a whole request as a row has them, Compute
// evaluates expressions, and Command asks a child process in any language. Each
// config struct has a constructor that checks it, compiles what there is to
// compile, and returns a matrix.Agent; what is wrong with a key of the config
// is a *lang.FieldError, several are joined.
package agent
