package remote

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// bucket is one of S3, or of a service that speaks as S3 does.
type bucket struct {
	scheme, name string
	base         string // address, to which a key is added
	anonymous    bool
	missing      string // what there is to do without credentials
	sign         func(*http.Request) error
}

func splitBucket(rest string) (name, key string, err error) {
	name, key, _ = strings.Cut(rest, "/")
	if name == "" || strings.ContainsAny(name, "*?[") {
		return "", "", errors.New("want the name of a bucket and a file in it: s3://BUCKET/FILE, gs://BUCKET/FILE")
	}
	return name, key, nil
}

// openS3 is a bucket by AWS's environment and files.
func openS3(ctx context.Context, rest string) (store, string, error) {
	name, key, err := splitBucket(rest)
	if err != nil {
		return nil, "", err
	}
	conf, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("AWS's configuration cannot be used: %w", err)
	}
	region := cmp.Or(conf.Region, "us-east-1")
	b := &bucket{scheme: "s3", name: name, missing: "there are no credentials of AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"}
	switch endpoint := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), aws.ToString(conf.BaseEndpoint)); {
	case endpoint != "":
		b.base = strings.TrimRight(endpoint, "/") + "/" + name
	case strings.Contains(name, "."): // no certificate is for its name
		b.base = fmt.Sprintf("https://s3.%s.amazonaws.com/%s", region, name)
	default:
		b.base = fmt.Sprintf("https://%s.s3.%s.amazonaws.com", name, region)
	}
	if b.anonymous = conf.Credentials == nil; !b.anonymous {
		look, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := conf.Credentials.Retrieve(look)
		cancel()
		b.anonymous = err != nil // public buckets want none
	}
	if b.anonymous {
		return b, key, nil
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	b.sign = func(req *http.Request) error {
		creds, err := conf.Credentials.Retrieve(req.Context())
		if err != nil {
			return fmt.Errorf("the credentials of AWS cannot be had: %w", err)
		}
		const none = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of no bytes
		req.Header.Set("X-Amz-Content-Sha256", none)
		return signer.SignHTTP(req.Context(), creds, req, none, "s3", region, time.Now())
	}
	return b, key, nil
}

// openGCS is a bucket by Google's application default credentials. Its XML API speaks as S3's:
// https://cloud.google.com/storage/docs/xml-api/overview
func openGCS(ctx context.Context, rest string) (store, string, error) {
	name, key, err := splitBucket(rest)
	if err != nil {
		return nil, "", err
	}
	b := &bucket{scheme: "gs", name: name, base: "https://storage.googleapis.com/" + name, missing: "there are no credentials of Google: log in by gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"}
	if host := os.Getenv("STORAGE_EMULATOR_HOST"); host != "" {
		if !strings.Contains(host, "://") {
			host = "http://" + host
		}
		b.base, b.anonymous = strings.TrimRight(host, "/")+"/"+name, true
		return b, key, nil
	}
	found, err := google.FindDefaultCredentials(context.WithoutCancel(ctx), "https://www.googleapis.com/auth/devstorage.read_only")
	if b.anonymous = err != nil; b.anonymous {
		return b, key, nil //nolint:nilerr // public buckets want none
	}
	tokens := oauth2.ReuseTokenSource(nil, found.TokenSource)
	b.sign = func(req *http.Request) error {
		t, err := tokens.Token()
		if err != nil {
			return fmt.Errorf("Google gives no token: %w; log in by gcloud auth application-default login", err)
		}
		t.SetAuthHeader(req)
		return nil
	}
	return b, key, nil
}

// request asks for what is in the bucket: a key, or with a query its list.
func (b *bucket) request(ctx context.Context, method, key, query string) (*http.Request, error) {
	u, err := url.Parse(b.base)
	if err != nil {
		return nil, fmt.Errorf("%q is not an address", b.base)
	}
	u.RawPath = u.EscapedPath() + "/" + escaped(key)
	u.Path += "/" + key
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.URL.RawPath = u.RawPath
	if b.scheme == "gs" { // else what is stored as gzip comes unpacked, and has no ranges
		req.Header.Set("Accept-Encoding", "gzip")
	}
	if b.sign != nil {
		err = b.sign(req)
	}
	return req, err
}

// escaped is a key in an address, as S3 signs it: all but unreserved characters and slashes.
func escaped(key string) string {
	var out strings.Builder
	for i := range len(key) {
		switch c := key[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.~/", c) >= 0:
			out.WriteByte(c)
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

func (b *bucket) explain(code int, body []byte) string {
	var said struct{ Code, Message, Region, Endpoint string }
	_ = xml.Unmarshal(body, &said) // of an answer to HEAD there is none
	switch {
	case said.Code == "NoSuchBucket":
		return "there is no bucket " + b.name
	case code == http.StatusMovedPermanently || code == http.StatusTemporaryRedirect || said.Code == "AuthorizationHeaderMalformed" && said.Region != "":
		return strings.TrimSuffix(fmt.Sprintf("the bucket is in another region: set AWS_REGION to it: %s", said.Region), ": ")
	case (code == http.StatusForbidden || code == http.StatusUnauthorized) && b.anonymous:
		return b.missing
	case code == http.StatusForbidden && (said.Code == "InvalidAccessKeyId" || said.Code == "SignatureDoesNotMatch"):
		return "the credentials are refused (" + said.Code + ")"
	case code == http.StatusForbidden || code == http.StatusUnauthorized:
		return "the credentials may not read it (" + cmp.Or(said.Code, "no reason is given") + ")"
	case said.Message != "":
		return said.Message
	}
	return ""
}

func (b *bucket) file(key string, size int64, version string) *File {
	return &File{Path: b.scheme + "://" + b.name + "/" + key, size: size, version: version, explain: b.explain, request: func(ctx context.Context, method string) (*http.Request, error) {
		return b.request(ctx, method, key, "")
	}}
}

func (b *bucket) list(ctx context.Context, prefix string, f func(key string, size int64, version string) bool) error {
	for token := ""; ; {
		// https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
		query := "list-type=2"
		if token != "" {
			query = "continuation-token=" + escapedQuery(token) + "&" + query
		}
		if prefix != "" {
			query += "&prefix=" + escapedQuery(prefix)
		}
		pages := &File{size: -1, tries: triesFind, explain: b.explain, request: func(ctx context.Context, method string) (*http.Request, error) {
			return b.request(ctx, method, "", query)
		}}
		res, cancel, err := pages.get(ctx, 0, -1)
		if err != nil {
			return err
		}
		var said struct {
			Contents []struct {
				Key  string
				Size int64
				ETag string
			}
			IsTruncated           bool
			NextContinuationToken string
		}
		err = xml.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(&said)
		res.Body.Close()
		cancel()
		if err != nil {
			return fmt.Errorf("the list of the bucket cannot be read: %w", err)
		}
		for _, o := range said.Contents {
			if !f(o.Key, o.Size, o.ETag) {
				return nil
			}
		}
		if token = said.NextContinuationToken; !said.IsTruncated || token == "" {
			return nil
		}
	}
}

func escapedQuery(s string) string { return strings.ReplaceAll(escaped(s), "/", "%2F") }
