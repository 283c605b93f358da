// Package launch starts the servers of models on this machine, keeps them up,
// and ends them, whatever becomes of the process that asked for them.
//
// Between that process and each server stands a supervisor: the same program, run
// as Supervise. It reads a pipe whose other end the launching process holds; when
// that process ends, be it by SIGKILL, the supervisor reads the end of the file and
// ends the server with all that it started. When a supervisor is killed, the
// launching process does.
//
// The package does not know what is asked of the servers. Where they are goes
// to a file that a model's endpoints are read from.
package launch
