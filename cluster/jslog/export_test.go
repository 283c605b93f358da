package jslog

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	Window = window
	Alarm  = alarm
)

// OpenWith opens a log with another patience, which reads three messages at once and sends with publish.
func OpenWith(ctx context.Context, nc *nats.Conn, o Options, patience time.Duration, publish func(*nats.Msg) error) (*Log, error) {
	return open(ctx, nc, o, patience, 3, publish)
}

// Epoch is how the messages of this writer are named.
func (l *Log) Epoch() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch
}

// Conn is the log's connection.
func (l *Log) Conn() *nats.Conn { return l.nc }
