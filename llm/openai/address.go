package openai

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"matrix/llm"
)

// target is a place where the API may be.
type target struct {
	base string               // shown: without credentials and query
	at   [lastOp + 1]*url.URL // of each operation
}

// shown is the address of an operation, with the names of its query only.
func (t *target) shown(o op) string {
	s, mark := t.base+o.String(), "?"
	for _, name := range slices.Sorted(maps.Keys(t.at[o].Query())) {
		s, mark = s+mark+url.QueryEscape(name)+"=...", "&"
	}
	return s
}

// op is what a request asks of the API.
type op int

const (
	chat op = iota
	completion
	embedding
	models
	lastOp = models
)

var paths = [...]string{chat: "/chat/completions", completion: "/completions", embedding: "/embeddings", models: "/models"}

func (o op) String() string { return paths[o] }

var version = regexp.MustCompile(`^v\d[a-z0-9]*$`)

// parseBase reads a base URL.
func parseBase(raw string) (*url.URL, error) {
	bad := func(format string, a ...any) (*url.URL, error) {
		return nil, &llm.FieldError{Field: "base_url", Err: fmt.Errorf(format, a...)}
	}
	raw = strings.TrimSpace(raw)
	if raw == "" {
		return bad("is empty; write the server's address, such as http://127.0.0.1:8000/v1")
	}
	if !strings.Contains(raw, "://") {
		return bad("%q has no scheme; write http://%s or https://%[2]s", raw, raw)
	}
	u, err := url.Parse(raw)
	if err != nil {
		var inner *url.Error // names the whole text, and with it a password
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return bad("is not a URL: %v", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return bad("the scheme is %q, want http or https", u.Scheme)
	}
	if u.Hostname() == "" {
		return bad("names no host")
	}
	return u, nil
}

// address works out the targets, the headers and the secrets.
func (w *Driver) address(o *Options) error {
	u, err := parseBase(o.BaseURL)
	if err != nil {
		return err
	}
	w.header = http.Header{
		"Content-Type": {"application/json"},
		"Accept":       {"application/json"},
		"User-Agent":   {"matrix"},
	}
	if u.User != nil {
		password, _ := u.User.Password()
		w.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
		w.secrets.Add(password)
		u.User = nil
	}
	if o.APIKey != "" {
		if strings.ContainsFunc(o.APIKey, func(r rune) bool { return r < '!' || r > '~' }) {
			return &llm.FieldError{Field: "api_key", Err: errors.New("holds a blank, a line break or a character that no key has")}
		}
		w.header.Set("Authorization", "Bearer "+o.APIKey)
		w.secrets.Add(o.APIKey)
	}
	if err := llm.AddHeaders(w.header, &w.secrets, o.Header); err != nil {
		return err
	}
	for _, vs := range u.Query() {
		for _, v := range vs {
			if len(v) >= 16 { // a key rather than an api-version
				w.secrets.Add(v)
			}
		}
	}
	for _, dir := range dirs(u.EscapedPath(), o.Exact) {
		t := target{base: u.Scheme + "://" + u.Host + dir}
		for o, p := range paths {
			t.at[o] = at(u, dir+p)
		}
		w.targets = append(w.targets, t)
	}
	if o.ModelsURL != "" {
		m, err := parseBase(o.ModelsURL)
		if err != nil {
			return err
		}
		for i := range w.targets {
			w.targets[i].at[models] = m
		}
	}
	return nil
}

// at is u with another path, which is escaped: a %2F stays one.
func at(u *url.URL, path string) *url.URL {
	v := *u
	v.RawPath, v.Fragment = path, ""
	v.Path, _ = url.PathUnescape(path) // of a path that was escaped
	return &v
}

// dirs returns where the API may be below a base URL with this path, which is
// escaped, the likeliest first.
func dirs(at string, exact bool) []string {
	dir := strings.TrimRight(at, "/")
	if exact {
		return []string{dir}
	}
	for _, p := range paths { // the address of a call itself; chat's before that of completions
		if whole, ok := strings.CutSuffix(dir, p); ok {
			return []string{whole}
		}
	}
	switch {
	case dir == "":
		return []string{"/v1", ""}
	case !version.MatchString(path.Base(dir)):
		return []string{dir, dir + "/v1"}
	}
	return []string{dir}
}

// stripQuery cuts credentials and query off a URL.
func stripQuery(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "an address that is none"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
