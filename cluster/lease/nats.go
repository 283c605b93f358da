package lease

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"matrix/internal/pause"
)

// bucket is a key-value bucket of NATS JetStream. What it reads may be of a server that
// is behind the others: it is then believed in no longer than until something is written.
type bucket struct{ kv jetstream.KeyValue }

const (
	request = 2 * time.Second // one that meets no server is never answered
	noPeers = 10005           // not enough servers yet for so many replicas
)

// NATS returns the leases in a bucket of key-value pairs, which it makes where there
// is none. It waits for servers that do not answer until ctx ends.
func NATS(ctx context.Context, nc *nats.Conn, name string, replicas int) (Store, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	for {
		kv, err := open(ctx, js, jetstream.KeyValueConfig{Bucket: name, Replicas: max(replicas, 1), Storage: jetstream.FileStorage, History: 1})
		if err == nil {
			return bucket{kv}, nil
		}
		var refused *jetstream.APIError
		if errors.As(err, &refused) && refused.Code < 500 && refused.ErrorCode != noPeers || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, jetstream.ErrInvalidBucketName) {
			return nil, err
		}
		if pause.For(ctx, request/20) != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

func open(ctx context.Context, js jetstream.JetStream, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	kv, err := js.KeyValue(ctx, c.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = js.CreateKeyValue(ctx, c)
	}
	return kv, err
}

// Get implements Store.
func (b bucket) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := b.kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	return e.Value(), e.Revision(), nil
}

// Put implements Store.
func (b bucket) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	next, err := b.kv.Update(ctx, key, value, revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		err = errors.Join(ErrChanged, err)
	}
	return next, err
}
