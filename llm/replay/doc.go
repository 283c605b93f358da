// Package replay has models that need no service: scripted ones, whose replies a
// function or a list makes, and those that answer with the replies that Record has
// written to a file.
package replay
