// Package dataset reads the rows of a run and writes its finished tasks.
//
// A Source reads files of rows (JSON, CSV, Parquet) and of documents (text, web pages,
// web archives) of any size in constant memory, and goes on at a saved matrix.Position without handing out a row a
// second time. A Sink appends tasks to part files so that what a checkpoint promises
// is on disk, and what no checkpoint promises can be cut off again.
//
// The package knows tasks and files. It knows nothing of queues, models,
// expressions (they come in as functions) or config files.
package dataset
