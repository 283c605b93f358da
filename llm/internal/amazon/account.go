// Package amazon is what the drivers of AWS services share: whose account and
// region, how a call is signed and sent, how a stream of events is read, and what
// errors mean. It does not know any service.
//
// How AWS finds credentials and regions is in the SDKs' reference guide:
// https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
package amazon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"

	"matrix/llm"
)

// Account says whose service is called, and where. What is absent is taken from
// where AWS's own tools take it.
type Account struct {
	Region  string `yaml:"region" doc:"AWS region. Without it, that of AWS_REGION or of the profile."`
	Profile string `yaml:"profile" free:"true" doc:"Profile in AWS's config files. Without it, AWS_PROFILE, or the first credentials found: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a web identity, the role of the container or the instance."`
	BaseURL string `yaml:"base_url" doc:"Address of the service, where it is not the region's own: a VPC endpoint, a proxy."`
}

// Service is one of AWS's.
type Service struct {
	ID      string // in AWS's configuration: Bedrock Runtime
	Signing string // name under which calls are signed
	Bearer  string // environment variable of a token that wins over credentials; empty: there is none

	// Host is where the service is in a region of a partition (aws, aws-cn, ...)
	// whose names end with suffix.
	Host func(partition, region, suffix string, fips, dual bool) string
}

// Conn is a connection to one service of an account.
type Conn struct {
	Endpoint string // shown; without credentials

	service Service
	conf    aws.Config
	base    string // address; empty: the region's own
	bearer  string
	signer  *v4.Signer
	skew    atomic.Int64 // of this machine's clock behind the service's, in ns
	reached atomic.Bool
	pool    *http.Transport
	keys    *keyring
	env     string // variables that hold credentials, for a hint
}

// Open reads AWS's environment and files; it calls nothing. base is where the
// service is, or empty for the region's own or what AWS_ENDPOINT_URL says. Errors
// are *llm.FieldErrors.
func Open(a Account, base string, s Service) (*Conn, error) {
	if err := checkAddress(base); err != nil {
		return nil, &llm.FieldError{Field: "base_url", Err: err}
	}
	c := &Conn{Endpoint: base, service: s, base: base, signer: v4.NewSigner(), pool: llm.NewTransport(llm.TransportOptions{})}
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
	c.conf, c.keys = conf, &keyring{from: conf.Credentials}
	if c.base == "" {
		c.base = c.configured()
	}
	env := []string{"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"}
	if s.Bearer != "" {
		c.bearer = os.Getenv(s.Bearer)
		c.keys.secrets.Add(c.bearer)
		env = append(env, s.Bearer)
	}
	if u, err := url.Parse(c.base); c.bearer != "" && err == nil && u.Scheme == "http" && !net.ParseIP(u.Hostname()).IsLoopback() {
		return nil, &llm.FieldError{Field: "base_url", Err: errors.New("is not https, and " + s.Bearer + " is not sent without")}
	}
	c.env = strings.Join(env, ", or ")
	return c, nil
}

// Where returns the address to dial: base_url, or the region's own.
func (a Account) Where(s Service) (llm.Endpoints, error) {
	conn, err := Open(a, a.BaseURL, s)
	if err != nil {
		return nil, err
	}
	at, err := conn.Address()
	return llm.Endpoints{{URL: at}}, err
}

// configured is the address that AWS's environment and files give the service;
// empty for none.
func (c *Conn) configured() string {
	ctx := context.Background()
	for _, source := range c.conf.ConfigSources {
		if p, ok := source.(interface {
			GetIgnoreConfiguredEndpoints(context.Context) (bool, bool, error)
		}); ok {
			if ignore, found, _ := p.GetIgnoreConfiguredEndpoints(ctx); found && ignore {
				return ""
			} else if found {
				break
			}
		}
	}
	global := ""
	if c.conf.BaseEndpoint != nil {
		global = *c.conf.BaseEndpoint
	}
	_, all := os.LookupEnv("AWS_ENDPOINT_URL")
	_, own := os.LookupEnv("AWS_ENDPOINT_URL_" + strings.ReplaceAll(strings.ToUpper(c.service.ID), " ", "_"))
	if all && !own {
		return global
	}
	for _, source := range c.conf.ConfigSources {
		if p, ok := source.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			if v, found, err := p.GetServiceBaseEndpoint(ctx, c.service.ID); err == nil && found {
				return v
			}
		}
	}
	return global
}

// partitions are the parts of AWS whose names end with something of their own, by
// the beginning of their regions:
// https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html
var partitions = []struct{ region, name, suffix, dual string }{
	{"cn-", "aws-cn", "amazonaws.com.cn", "api.amazonwebservices.com.cn"},
	{"us-gov-", "aws-us-gov", "amazonaws.com", "api.aws"},
	{"eusc-", "aws-eusc", "amazonaws.eu", "api.amazonwebservices.eu"},
	{"us-iso-", "aws-iso", "c2s.ic.gov", "api.aws.ic.gov"},
	{"us-isob-", "aws-iso-b", "sc2s.sgov.gov", "api.aws.scloud"},
	{"eu-isoe-", "aws-iso-e", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"},
	{"us-isof-", "aws-iso-f", "csp.hci.ic.gov", "api.aws.hci.ic.gov"},
	{"", "aws", "amazonaws.com", "api.aws"},
}

// Address is the base URL of the service.
func (c *Conn) Address() (string, error) {
	if c.base != "" {
		return c.base, nil
	}
	region := c.conf.Region
	if strings.ContainsFunc(region, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') }) {
		return "", &llm.FieldError{Field: "region", Err: fmt.Errorf("%q is not a region", region)}
	}
	var fips, dual bool
	for _, source := range c.conf.ConfigSources {
		if p, ok := source.(interface {
			GetUseFIPSEndpoint(context.Context) (aws.FIPSEndpointState, bool, error)
		}); ok && !fips {
			v, found, err := p.GetUseFIPSEndpoint(context.Background())
			fips = err == nil && found && v == aws.FIPSEndpointStateEnabled
		}
		if p, ok := source.(interface {
			GetUseDualStackEndpoint(context.Context) (aws.DualStackEndpointState, bool, error)
		}); ok && !dual {
			v, found, err := p.GetUseDualStackEndpoint(context.Background())
			dual = err == nil && found && v == aws.DualStackEndpointStateEnabled
		}
	}
	for _, p := range partitions {
		if strings.HasPrefix(region, p.region) {
			suffix := p.suffix
			if dual {
				suffix = p.dual
			}
			return "https://" + c.service.Host(p.name, region, suffix, fips, dual), nil
		}
	}
	return "", nil // not so: the last one is for all
}

// checkAddress says what is wrong with a base URL; empty is none.
func checkAddress(base string) error {
	u, err := url.Parse(base)
	switch {
	case base == "":
		return nil
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return fmt.Errorf("got %q, want https://HOST", u.Redacted())
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return errors.New("has credentials, a query or a fragment, which AWS does not take: leave them out")
	}
	return nil
}

// Close ends idle connections.
func (c *Conn) Close() error {
	c.pool.CloseIdleConnections()
	return nil
}

// Post signs a call and sends it, once. A response is one of success; an error is
// for Failure. Redirects are not followed.
func (c *Conn) Post(ctx context.Context, path string, header http.Header, body []byte) (*http.Response, error) {
	base, err := c.Address()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(strings.TrimSuffix(base, "/") + path)
	if err != nil {
		return nil, err
	}
	req := llm.NewRequest(ctx, u, http.Header{"Content-Type": {"application/json"}, "User-Agent": {"matrix"}}, body)
	maps.Copy(req.Header, header)
	if c.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+c.bearer)
	} else {
		keys, err := c.keys.Retrieve(ctx)
		if err != nil {
			return nil, err
		}
		hash := sha256.Sum256(body)
		at := time.Now().Add(time.Duration(c.skew.Load()))
		if err := c.signer.SignHTTP(ctx, keys, req, hex.EncodeToString(hash[:]), c.service.Signing, c.conf.Region, at); err != nil {
			return nil, err
		}
	}
	res, err := c.pool.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	c.reached.Store(true)
	c.adjust(res)
	if err := llm.Unpack(res); err != nil {
		return nil, &garbled{res.StatusCode, err.Error()}
	}
	res.Body = &bounded{res.Body, llm.MaxReply}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, complaint(res)
}

// adjust has calls be signed by the service's clock, where this machine's is off
// by more than a minute.
func (c *Conn) adjust(res *http.Response) {
	if at, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		skew := time.Until(at)
		if skew.Abs() < time.Minute {
			skew = 0
		}
		c.skew.Store(int64(skew))
	}
}

var errTooLong = errors.New("the reply is too long")

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
		if !slices.ContainsFunc(k.secrets, func(have llm.Secret) bool { return have.Text == s }) {
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
