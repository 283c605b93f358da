// Command matrix generates synthetic data with many cooperating LLM agents.
package main

import (
	"os"

	"matrix/cli"
)

var version string // set by the linker: make build

func main() {
	p := cli.Program{Version: version, In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(p.Main(os.Args[1:]))
}
