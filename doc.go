// Package matrix is the vocabulary of a peer-to-peer generator of synthetic
// data: a row becomes a Task, the task hops between stateless Agents through
// durable Queues, and a pure Router decides who acts next.
//
// It imports the standard library and leaves of internal alone and holds no
// machinery: the engine is in matrix/run, the queue of this machine in matrix/local.
package matrix
