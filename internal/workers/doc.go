// Package workers starts the processes that work for a run elsewhere: on this
// machine, over ssh, as a Slurm job array, as a Ray job, as a Deployment of
// Kubernetes. A Launcher starts processes, says what its system knows of them, and
// ends them. Who works for the run is what the run's head knows, never what a
// launcher believes.
//
// What was started is written down in a Folder before it is started, so that it is
// found and ended whatever became of the process that asked for it. The line by
// which workers join is a secret: it goes through a pipe, a file of mode 0600, the
// files of a Ray job or a Secret of Kubernetes, and stands on no command line, in
// no environment and no log.
//
// The package does not know what a worker does, nor the flags of its command.
package workers
