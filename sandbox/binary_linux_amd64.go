package sandbox

import "embed"

// Made by make inside; sources is the hash of what it was made of.
//
//go:embed embedded/amd64
var embedded embed.FS
