package heads

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATSError says that servers of somebody else are not, or do not allow, what a run
// needs of them.
type NATSError struct {
	URL string // without what is secret
	Err error
}

func (e *NATSError) Error() string { return fmt.Sprintf("%s: %v", e.URL, e.Err) }
func (e *NATSError) Unwrap() error { return e.Err }

// Needs are the subjects of which a user of the NATS servers must be allowed to publish
// and to subscribe, for the heads of a run.
func (h *Heads) needs() string {
	return fmt.Sprintf("publish to $JS.API.>, $KV.%s.> and %s>, and subscribe to _INBOX.> and %s>", h.bucket(), h.prefix(), h.prefix())
}

// shown is a URL, or several, less what is secret.
func shown(urls string) string {
	all := strings.Split(urls, ",")
	for i, s := range all {
		all[i] = "(a URL that cannot be read)"
		if u, err := url.Parse(strings.TrimSpace(s)); err == nil {
			if u.User != nil {
				u.User = url.User("...")
			}
			all[i] = u.String()
		}
	}
	return strings.Join(all, ",")
}

func (h *Heads) natsErrorf(format string, args ...any) error {
	return &NATSError{shown(h.o.NATS), fmt.Errorf(format, args...)}
}

const request = 5 * time.Second // for one that meets nobody

// dial connects to the servers of somebody else, and sees whether they are what is needed.
func (h *Heads) dial(ctx context.Context) (*nats.Conn, error) {
	nc, err := nats.Connect(h.o.NATS, nats.Name("matrix "+h.o.Secrets.Run), nats.Timeout(request),
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				h.deny(h.natsErrorf("%w; its user must be allowed to %s", err, h.needs()))
			}
		}))
	if err != nil {
		return nil, h.natsErrorf("%w", err)
	}
	if err := h.check(ctx, nc); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// deny has all that waits for the servers end with why.
func (h *Heads) deny(err error) {
	select {
	case h.denied <- err:
	default:
	}
}

// allowed is ctx until the servers deny something, which is its cause then.
func (h *Heads) allowed(ctx context.Context) (_ context.Context, cancel func()) {
	ctx, end := context.WithCancelCause(ctx)
	go func() {
		select {
		case err := <-h.denied:
			h.deny(err) // it is so for the others who ask
			end(err)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { end(nil) }
}

// check sees whether servers are what is needed, and how many replicas there can be.
func (h *Heads) check(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := h.allowed(ctx)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	asking, end := context.WithTimeout(ctx, request)
	defer end()
	info, err := js.AccountInfo(asking)
	switch {
	case err == nil:
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return h.natsErrorf("JetStream is not on there, or not for this user's account: a block jetstream in the configuration of the servers turns it on")
	default:
		return h.natsErrorf("what JetStream has for this user cannot be asked for: %w", err)
	}
	if n := nc.MaxPayload(); n < leastPayload {
		return h.natsErrorf("its max_payload is %d bytes; want %d or more, best 1 MiB", n, leastPayload)
	} else if n < 1<<20 {
		h.weak = append(h.weak, fmt.Sprintf("max_payload is %d bytes: what is committed goes in many small messages; 1 MiB is best", n))
	}
	if n := info.Limits.MaxStreams; n > 0 && n < 2 {
		return h.natsErrorf("this user may have %d streams, and a run needs one for each shard and another one", n)
	}
	if n := info.Limits.MaxStore; n > 0 {
		h.weak = append(h.weak, fmt.Sprintf("this user may store %d MiB: where that is full the run stops; it needs about three times what its tasks under way hold, and 200 MiB", n>>20))
	}
	for _, subject := range []string{h.presence("check"), h.prefix() + "log.check"} {
		if err := h.echo(ctx, nc, subject); err != nil {
			return err
		}
	}
	if h.replicas = 3; nc.ConnectedClusterName() == "" {
		h.replicas = 1
		h.weak = append(h.weak, "it is one server: the run does not outlive its machine, and waits while it is away; three servers make a run that goes on")
	}
	h.weak = append(h.weak, "whether the servers write each message to the disk before they say that they have it cannot be asked for: set sync_interval: always in their block jetstream, or a power cut may take what was committed")
	return nil
}

const leastPayload = 64 << 10

// echo sees whether what is sent to a subject comes.
func (h *Heads) echo(ctx context.Context, nc *nats.Conn, subject string) error {
	sub, err := nc.SubscribeSync(subject)
	if err == nil {
		err = nc.Publish(subject, nil)
	}
	if err != nil {
		return h.natsErrorf("%w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails where the connection is closed
	asking, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	if _, err := sub.NextMsgWithContext(asking); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return h.natsErrorf("what is sent to %s does not come (%w); its user must be allowed to %s", subject, err, h.needs())
	}
	return nil
}

// Weak says what of the servers of somebody else is not as it should be: sentences,
// without what ends them.
func (h *Heads) Weak() []string { return h.weak }
