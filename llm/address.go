package llm

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
)

// target is a place where the API may be.
type target struct {
	base   string   // shown: without credentials and query
	chat   *url.URL // of chat completions
	models *url.URL // of the list of models
}

var version = regexp.MustCompile(`^v\d[a-z0-9]*$`)

const chatPath = "/chat/completions"

// address works out the targets and the headers from the config.
func (m *openAI) address() error {
	c := &m.config
	bad := func(format string, a ...any) error {
		return &FieldError{"base_url", fmt.Errorf(format, a...)}
	}
	raw := strings.TrimSpace(c.BaseURL)
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
		return bad("is no URL: %v", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return bad("the scheme is %q, want http or https", u.Scheme)
	}
	if u.Hostname() == "" {
		return bad("names no host")
	}

	m.header = http.Header{
		"Content-Type": {"application/json"},
		"Accept":       {"application/json"},
		"User-Agent":   {"matrix"},
	}
	secret := func(s string) {
		if len(s) >= 8 { // shorter ones would hide plain words
			m.secrets = append(m.secrets, s)
		}
	}
	if u.User != nil {
		password, _ := u.User.Password()
		m.header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)))
		secret(password)
		u.User = nil
	}
	if c.APIKey != "" {
		if strings.ContainsFunc(c.APIKey, func(r rune) bool { return r < '!' || r > '~' }) {
			return &FieldError{"api_key", errors.New("holds a blank, a line break or a character that no key has")}
		}
		m.header.Set("Authorization", "Bearer "+c.APIKey)
		secret(c.APIKey)
	}
	for k, v := range c.Headers {
		if k == "" || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) || strings.ContainsAny(v, "\r\n\x00") {
			return &FieldError{"headers", fmt.Errorf("%q is no header that can be sent", k)}
		}
		m.header.Set(k, v)
		secret(v)
		if _, token, ok := strings.Cut(v, " "); ok {
			secret(token)
		}
	}
	for _, vs := range u.Query() {
		for _, v := range vs {
			if len(v) >= 16 { // a key rather than an api-version
				secret(v)
			}
		}
	}

	dir := strings.TrimRight(u.Path, "/")
	dirs := []string{dir}
	whole := strings.TrimSuffix(dir, chatPath)
	switch {
	case whole != dir: // the address of the call itself
		dirs = []string{whole}
	case dir == "":
		dirs = []string{"/v1", ""}
	case !version.MatchString(path.Base(dir)):
		dirs = []string{dir, dir + "/v1"}
	}
	for _, d := range dirs {
		at := func(p string) *url.URL {
			v := *u
			v.Path, v.RawPath, v.Fragment = d+p, "", ""
			return &v
		}
		m.targets = append(m.targets, target{
			base:   u.Scheme + "://" + u.Host + d,
			chat:   at(chatPath),
			models: at("/models"),
		})
	}
	return nil
}

// hide takes secrets out of a text.
func (m *openAI) hide(s string) string {
	for _, k := range m.secrets {
		s = strings.ReplaceAll(s, k, "***")
	}
	return s
}
