// Package lang is the language of configs: expressions and Jinja2 templates
// over a task. Both are compiled once and are then safe for use by many
// goroutines, as long as each works on a task of its own.
package lang
