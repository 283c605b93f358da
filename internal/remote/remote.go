// Package remote reads files that are on other machines, over HTTP: of the Hugging Face hub
// (hf://), of S3 and what speaks as it does (s3://), of Google Cloud Storage (gs://) and by
// their address (https://, http://). Nothing is stored here: a file is read in ranges, and
// reading goes on where a connection was cut. It knows nothing of what is in a file.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"matrix/internal/near"
)

// Is reports whether a path names a remote file.
func Is(path string) bool {
	scheme, _, ok := strings.Cut(path, "://")
	return ok && slices.Contains([]string{"hf", "s3", "gs", "https", "http"}, scheme)
}

// Find looks for the file of a path, or for the files of a glob in order of name. Globs have
// *, ? and [...], none of which goes over a slash; a path of https:// or http:// is none.
//
// Secrets come from the environment: HF_TOKEN; AWS's variables and files; Google's
// application default credentials; the user in an address. Without, public files can be read.
// Other services are named by HF_ENDPOINT, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, and
// STORAGE_EMULATOR_HOST.
func Find(ctx context.Context, path string) ([]*File, error) {
	scheme, rest, _ := strings.Cut(path, "://")
	var s store
	var err error
	switch scheme {
	case "hf":
		s, rest, err = openHub(rest)
	case "s3":
		s, rest, err = openS3(ctx, rest)
	case "gs":
		s, rest, err = openGCS(ctx, rest)
	default:
		return findURL(ctx, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	files, err := find(ctx, s, rest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return files, nil
}

// store is a service that lists its files.
type store interface {
	// list calls f for the files whose keys begin with prefix, until f returns false.
	list(ctx context.Context, prefix string, f func(key string, size int64, version string) bool) error
	// file is the file of a key; with version and size, which are empty and -1 where they are
	// not known yet.
	file(key string, size int64, version string) *File
}

// find is Find within a store.
func find(ctx context.Context, s store, pattern string) ([]*File, error) {
	if i := strings.IndexAny(pattern, "*?["); i >= 0 {
		return glob(ctx, s, pattern, pattern[:i])
	}
	f := s.file(pattern, -1, "")
	err := f.stat(ctx)
	var status *StatusError
	if pattern == "" || errors.As(err, &status) && status.Code == http.StatusNotFound {
		return nil, nearby(ctx, s, pattern, err)
	}
	return []*File{f}, err
}

func glob(ctx context.Context, s store, pattern, prefix string) ([]*File, error) {
	switch _, err := path.Match(pattern, ""); {
	case err != nil:
		return nil, err
	case strings.Contains(pattern, "**"):
		return nil, errors.New("** is not supported; name the folders, or list several globs")
	}
	var found []*File
	var others []string
	if err := s.list(ctx, prefix, func(key string, size int64, version string) bool {
		if ok, _ := path.Match(pattern, key); ok && !strings.HasSuffix(key, "/") {
			found = append(found, s.file(key, size, version))
		} else if len(others) < maxNamed {
			others = append(others, key)
		}
		return true
	}); err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b *File) int { return strings.Compare(a.Path, b.Path) })
	if len(found) == 0 {
		return nil, fmt.Errorf("matches no file%s", there(others))
	}
	return found, nil
}

// maxNamed is how many files are looked at for a message.
const maxNamed = 1000

// nearby says that there is no file of that key, and which one is meant perhaps.
func nearby(ctx context.Context, s store, key string, missing error) error {
	dir := key[:strings.LastIndexByte(key, '/')+1]
	var names []string
	if err := s.list(ctx, dir, func(k string, _ int64, _ string) bool {
		names = append(names, k)
		return len(names) < maxNamed
	}); err != nil {
		return err // such as that there is no bucket
	}
	below := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return key != "" && !strings.HasPrefix(n, strings.TrimSuffix(key, "/")+"/") })
	switch hint := near.Name(key, names); {
	case len(below) > 0:
		return fmt.Errorf("names no file: say which files below it%s", there(below))
	case hint != "":
		return fmt.Errorf("no such file; did you mean %s?", hint)
	case missing == nil:
		return errors.New("names no file, and there is none")
	}
	return fmt.Errorf("no such file%s", there(names))
}

// there lists some keys for a message.
func there(keys []string) string {
	switch {
	case len(keys) == 0:
		return ""
	case len(keys) > 4:
		return fmt.Sprintf("; there are %s and others", strings.Join(keys[:3], ", "))
	}
	return "; there is " + strings.Join(keys, ", ")
}

// userinfo is the user in an address, also of one that cannot be read.
var userinfo = regexp.MustCompile(`://[^/]*@`)

// findURL is the file of an address.
func findURL(ctx context.Context, address string) ([]*File, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		address, _, _ = strings.Cut(address, "?")
		return nil, fmt.Errorf("%s is not an address", userinfo.ReplaceAllString(address, "://***@"))
	}
	shown := *u
	shown.User, shown.RawQuery, shown.Fragment = nil, "", ""
	f := &File{Path: shown.String(), size: -1, request: func(ctx context.Context, method string) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, method, address, nil)
	}}
	if err := f.stat(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	return []*File{f}, nil
}

// StatusError is an answer that is none of the file.
type StatusError struct {
	Code int
	Msg  string // what to do, or what the service said
	wait time.Duration
}

func (e *StatusError) Error() string {
	said := fmt.Sprintf("the server says %d %s", e.Code, http.StatusText(e.Code))
	if e.Msg != "" {
		said += ": " + e.Msg
	}
	return said
}

// passes reports whether trying again may help.
func (e *StatusError) passes() bool {
	return e.Code == http.StatusRequestTimeout || e.Code == http.StatusTooManyRequests || e.Code >= 500 && e.Code != http.StatusNotImplemented
}

// ChangedError says that a file is not the one any more that reading began with.
type ChangedError struct{ Was, Is string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("the file has changed on the server while it was read (it was %s, and is %s): put the one back that the run began with, or start a new run", e.Was, e.Is)
}

// retryAfter reads the header of that name.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxPause)
}
