// Package launch starts the servers of models on this machine, keeps them up,
// and ends them, whatever becomes of the process that asked for them.
//
// Between that process and each server stands a keeper: the same program, run
// as Keep. It holds one end of a pipe, the leash, whose other end the launching
// process has; when that process ends, be it by SIGKILL, the keeper reads the
// end of the file and ends the server with all that it started. When a keeper is
// killed, the launching process does.
//
// The package does not know what is asked of the servers. Where they are goes
// to a file that a model's endpoints are read from.
package launch
