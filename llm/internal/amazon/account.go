// Package amazon is what the wires of AWS services share: whose account and
// region, how the SDK is set up, and what its errors mean. It does not know any
// service.
//
// How AWS finds credentials and regions is in the SDKs' reference guide:
// https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
package amazon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/aws/smithy-go/transport/http/protocol/restjson1"

	"matrix/llm"
)

// Account says whose service is called, and where. What is absent is taken from
// where AWS's own tools take it.
type Account struct {
	Region  string `yaml:"region" doc:"AWS region. Without it, that of AWS_REGION or of the profile."`
	Profile string `yaml:"profile" free:"true" doc:"Profile in AWS's config files. Without it, AWS_PROFILE, or the first credentials found: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, the role of the container or the instance."`
	BaseURL string `yaml:"base_url" doc:"Address of the service, where it is not the region's own: a VPC endpoint, a proxy."`
}

// maxReply is the longest reply that is read, in bytes.
const maxReply = 64 << 20

// Conn is a connection to one service of an account.
type Conn struct {
	Config   aws.Config // retries are off
	Endpoint string     // shown; without credentials

	reached atomic.Bool
	pool    *http.Transport
	keys    *keyring
	env     string // variables that hold credentials, for a hint
}

// Open reads AWS's environment and files; it calls nothing. url is where the
// service is, or empty for the region's own or what AWS_ENDPOINT_URL says. env
// names environment variables that hold credentials of the service beside the
// usual, of which the values are never shown. Errors are *llm.FieldErrors.
func Open(a Account, url string, env ...string) (*Conn, error) {
	if err := checkAddress(url); err != nil {
		return nil, &llm.FieldError{Field: "base_url", Err: err}
	}
	c := &Conn{Endpoint: url, pool: llm.NewTransport(llm.TransportOptions{})}
	var options []func(*config.LoadOptions) error
	if a.Region != "" {
		options = append(options, config.WithRegion(a.Region))
	}
	if a.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(a.Profile))
	}
	conf, err := config.LoadDefaultConfig(context.Background(), options...)
	if err != nil {
		field := "region"
		if missing := (config.SharedConfigProfileNotExistError{}); errors.As(err, &missing) || a.Profile != "" {
			field = "profile"
		}
		return nil, &llm.FieldError{Field: field, Err: fmt.Errorf("AWS's configuration cannot be used: %s", llm.Shorten(err.Error(), 300))}
	}
	if conf.Region == "" {
		return nil, &llm.FieldError{Field: "region", Err: errors.New("is missing: give it here, in AWS_REGION, or in the profile")}
	}
	if b, ok := conf.HTTPClient.(*awshttp.BuildableClient); ok { // it has AWS_CA_BUNDLE
		c.pool.TLSClientConfig = b.GetTransport().TLSClientConfig
	}
	c.keys = &keyring{from: conf.Credentials}
	for _, name := range env {
		c.keys.secrets.Add(os.Getenv(name))
	}
	conf.Credentials, conf.HTTPClient = c.keys, c
	conf.Logger = logging.Nop{} // what went wrong, errors say
	conf.Retryer, conf.RetryMaxAttempts = func() aws.Retryer { return aws.NopRetryer{} }, 0
	if url != "" {
		conf.BaseEndpoint = &url
	}
	c.Config, c.env = conf, strings.Join(append([]string{"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"}, env...), ", or ")
	return c, nil
}

// checkAddress says what is wrong with a base URL; empty is none.
func checkAddress(base string) error {
	u, err := url.Parse(base)
	switch {
	case base == "":
		return nil
	case err != nil:
		return errors.New("is no URL")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return fmt.Errorf("got %q, want https://HOST", u.Redacted())
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return errors.New("has credentials, a query or a fragment, which AWS does not take: leave them out")
	}
	return nil
}

// Protocol returns what reads one event stream. The one of a client, which
// smithy-go v1.28 uses for all its streams at once, has state: two streams would
// race for it.
func Protocol() smithyhttp.ClientProtocol { return restjson1.New(nil) }

// Close ends idle connections.
func (c *Conn) Close() error {
	c.pool.CloseIdleConnections()
	return nil
}

// Do sends an HTTP request, for the SDK. Redirects are not followed. The body is
// a copy: it can be sent again, and the SDK, which closes its own as soon as a
// response begins, does not pull it away from a transport that has not seen its
// end yet, which then closes the connection.
func (c *Conn) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
		r = r.WithContext(r.Context())
		r.ContentLength, r.Body = int64(len(body)), io.NopCloser(bytes.NewReader(body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	res, err := c.pool.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	c.reached.Store(true)
	res.Body = &bounded{res.Body, maxReply}
	return res, nil
}

var errTooLong = fmt.Errorf("the reply is larger than %d bytes", maxReply)

// bounded is a body that ends with an error when it goes on for too long.
type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// keyring passes credentials on, and remembers them so that none is shown.
type keyring struct {
	from aws.CredentialsProvider

	mu      sync.Mutex
	had     bool // there were credentials once
	secrets llm.Secrets
}

// keyError is that there are no credentials.
type keyError struct {
	err error
	had bool // there were before
}

func (e *keyError) Error() string { return "no AWS credentials: " + e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// Retrieve implements aws.CredentialsProvider.
func (k *keyring) Retrieve(ctx context.Context) (aws.Credentials, error) {
	keys, err := k.from.Retrieve(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		return keys, &keyError{err, k.had}
	}
	k.had = true
	for _, s := range []string{keys.SecretAccessKey, keys.SessionToken, keys.AccessKeyID} {
		if !slices.Contains(k.secrets, s) {
			k.secrets.Add(s)
		}
	}
	return keys, nil
}

func (k *keyring) hide(s string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.secrets.Hide(s)
}
