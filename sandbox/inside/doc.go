// Package inside is the supervisor that runs in each sandbox, and the client that speaks to it.
//
// The supervisor ([Serve], a static program of its own in cmd/inside) is the first process of a sandbox. Its standard
// input is the lease: when that ends, or nothing was heard for as long as was agreed, it ends every process that it
// started, daemons included, and exits. So whatever becomes of the process that leased the sandbox, nothing is left
// over. Over its standard input and output it takes commands: [Conn] is the other end. Many may be under way at once.
//
// The wire: frames of a length (4 bytes, little-endian), a kind (1 byte), the number of a call (uvarint) and a body of at
// most 1 MiB in all. A call is begun by a request, and ended by its reply. Bytes of streams flow in data frames, no more
// than 256 KiB ahead of what the reader at the other end has taken (window frames), so that no stream holds up
// another one. All lengths are bounded at both ends: what a sandbox says is not trusted.
//
// The package knows nothing of tasks, pools, or what made the sandbox. It imports the standard library alone, and little
// of that, since it is in each sandbox.
package inside
