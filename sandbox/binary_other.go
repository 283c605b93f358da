//go:build !linux || (!amd64 && !arm64)

package sandbox

import "embed"

var embedded embed.FS
