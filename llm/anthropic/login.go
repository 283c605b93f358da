package anthropic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"matrix/llm"
	"matrix/llm/internal/token"
)

// Who calls is found as Anthropic's own tools find it: a key, a token, a profile
// that was named, workload identity in the environment, the active profile. The
// files are those of github.com/anthropics/anthropic-sdk-go/config; tokens are
// given by POST /v1/oauth/token, by RFC 7523 or RFC 6749.

const (
	tokenPath      = "/v1/oauth/token"
	betaOAuth      = "oauth-2025-04-20"           // of calls and requests with an OAuth token
	betaFederation = "oidc-federation-2026-04-01" // of an exchange of an identity token, and of nothing else

	spare        = 2 * time.Minute  // before its end a token is renewed
	least        = 30 * time.Second // that a token of a file must hold
	maxIdentity  = 16 << 10         // bytes of an identity token
	hintIdentity = "check the federation rule, the identity token, and ANTHROPIC_WORKSPACE_ID where the rule has several workspaces"
	hintLogin    = "log in again by Anthropic's tools, or set ANTHROPIC_API_KEY"
	hintNoKey    = "set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN) in the environment"
)

// profile is how one calls without a key.
type profile struct {
	Auth         *authentication `json:"authentication"`
	BaseURL      string          `json:"base_url"`
	Organization string          `json:"organization_id"`
	Workspace    string          `json:"workspace_id"`

	literal string // identity token of the environment, where there is no file of it
}

type authentication struct {
	Type        string `json:"type"` // oidc_federation or user_oauth
	Credentials string `json:"credentials_path"`

	Rule     string    `json:"federation_rule_id"` // of oidc_federation
	Account  string    `json:"service_account_id"`
	Identity *identity `json:"identity_token"`

	Client string `json:"client_id"` // of user_oauth; empty: its token is not renewed
}

// identity is where an identity token is.
type identity struct {
	Source string `json:"source"` // file
	Path   string `json:"path"`
}

// login has w sign its calls. The error is a *llm.FieldError.
func (w *Driver) login() error {
	h := w.conn.Header
	if key := cmp.Or(w.config.APIKey, os.Getenv("ANTHROPIC_API_KEY")); key != "" {
		h.Set("X-Api-Key", key)
		return nil
	}
	if token := os.Getenv("ANTHROPIC_AUTH_TOKEN"); token != "" {
		h.Set("Authorization", "Bearer "+token)
		return nil
	}
	p, err := find()
	if err != nil {
		return &llm.FieldError{Field: "api_key", Err: err}
	}
	if p == nil {
		return &llm.FieldError{Field: "api_key", Err: errors.New("there is no key: " + hintNoKey)}
	}
	if err := p.check(); err != nil {
		return &llm.FieldError{Field: "api_key", Err: fmt.Errorf("the profile of Anthropic's tools cannot be used: %w; fix it, or %s", err, hintNoKey)}
	}
	if p.Workspace != "" && p.Auth.Type == "user_oauth" { // other tokens are of one workspace themselves
		h.Set("Anthropic-Workspace-Id", p.Workspace)
	}
	base := strings.TrimSuffix(p.BaseURL, "/")
	if u, err := url.Parse(w.conn.Base); base == "" && err == nil {
		base = u.Scheme + "://" + u.Host
	}
	if u, err := url.Parse(base); err != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return &llm.FieldError{Field: "base_url", Err: errors.New("is not https, so that no token is asked for there")}
	}
	ask := asking{base: base, http: w.conn.Transport()}
	w.conn.Token = token.New(func(ctx context.Context, refused string) (string, time.Time, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		if p.Auth.Type == "user_oauth" {
			return p.user(ctx, ask, refused)
		}
		return p.federated(ctx, ask, refused)
	}, spare)
	return nil
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// find returns the profile that the environment and the files of this machine
// mean; nil where there is none.
func find() (*profile, error) {
	dir := profiles()
	if name := os.Getenv("ANTHROPIC_PROFILE"); name != "" {
		p, err := load(dir, name)
		if err != nil {
			return nil, fmt.Errorf("the profile %q of ANTHROPIC_PROFILE cannot be used: %w", name, err)
		}
		return p, nil
	}
	if os.Getenv("ANTHROPIC_FEDERATION_RULE_ID") != "" && os.Getenv("ANTHROPIC_ORGANIZATION_ID") != "" && identified() {
		p := &profile{Auth: &authentication{Type: "oidc_federation"}}
		p.fill()
		p.BaseURL = "" // that of the calls
		return p, nil
	}
	name := "default"
	if b, err := os.ReadFile(filepath.Join(dir, "active_config")); err == nil && strings.TrimSpace(string(b)) != "" {
		name = strings.TrimSpace(string(b))
	}
	p, err := load(dir, name)
	switch {
	case err == nil:
		return p, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the profile %q of Anthropic's tools cannot be used: %w; fix it, or %s", name, err, hintNoKey)
	case os.Getenv("ANTHROPIC_FEDERATION_RULE_ID") != "" || identified():
		return nil, errors.New("workload identity needs ANTHROPIC_FEDERATION_RULE_ID, ANTHROPIC_ORGANIZATION_ID and ANTHROPIC_IDENTITY_TOKEN_FILE (or ANTHROPIC_IDENTITY_TOKEN)")
	}
	return nil, nil
}

// identified reports whether the environment has an identity token.
func identified() bool {
	return os.Getenv("ANTHROPIC_IDENTITY_TOKEN_FILE") != "" || os.Getenv("ANTHROPIC_IDENTITY_TOKEN") != ""
}

// profiles is the folder of Anthropic's tools.
func profiles() string {
	if dir := os.Getenv("ANTHROPIC_CONFIG_DIR"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "anthropic")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(string(filepath.Separator), "nonexistent")
	}
	return filepath.Join(home, ".config", "anthropic")
}

// load reads a profile.
func load(dir, name string) (*profile, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9_.-]+$`).MatchString(name) || name == "." || name == ".." {
		return nil, errors.New("a name has letters, digits, and . _ -")
	}
	file := filepath.Join(dir, "configs", name+".json")
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := &profile{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if p.Auth == nil {
		return nil, fmt.Errorf("%s has no authentication", file)
	}
	p.Auth.Credentials = cmp.Or(p.Auth.Credentials, filepath.Join(dir, "credentials", name+".json"))
	p.fill()
	return p, nil
}

// fill takes from the environment what p does not say.
func (p *profile) fill() {
	p.BaseURL = cmp.Or(p.BaseURL, os.Getenv("ANTHROPIC_BASE_URL"))
	p.Organization = cmp.Or(p.Organization, os.Getenv("ANTHROPIC_ORGANIZATION_ID"))
	p.Workspace = cmp.Or(p.Workspace, os.Getenv("ANTHROPIC_WORKSPACE_ID"))
	p.Auth.Rule = cmp.Or(p.Auth.Rule, os.Getenv("ANTHROPIC_FEDERATION_RULE_ID"))
	p.Auth.Account = cmp.Or(p.Auth.Account, os.Getenv("ANTHROPIC_SERVICE_ACCOUNT_ID"))
	if p.Auth.Identity == nil {
		p.literal = os.Getenv("ANTHROPIC_IDENTITY_TOKEN")
		if file := os.Getenv("ANTHROPIC_IDENTITY_TOKEN_FILE"); file != "" {
			p.Auth.Identity = &identity{"file", file}
		}
	}
}

// check says what p lacks.
func (p *profile) check() error {
	a := p.Auth
	switch a.Type {
	case "user_oauth":
		c, err := readKept(a.Credentials)
		switch {
		case err != nil:
			return err
		case c.Access == "":
			return fmt.Errorf("%s has no access_token", a.Credentials)
		case a.Client == "" && c.fresh("") == "":
			return fmt.Errorf("the token in %s has expired, and the profile has no client_id to renew it by", a.Credentials)
		case a.Client != "" && c.Refresh == "":
			return fmt.Errorf("%s has no refresh_token", a.Credentials)
		}
	case "oidc_federation":
		switch {
		case a.Rule == "" || p.Organization == "":
			return errors.New("it has no federation_rule_id or no organization_id")
		case a.Identity == nil && p.literal == "":
			return errors.New("it has no identity_token")
		case a.Identity != nil && (a.Identity.Source != "file" || a.Identity.Path == ""):
			return errors.New(`its identity_token is not {"source": "file", "path": ...}`)
		}
	default:
		return fmt.Errorf("its authentication is of type %q, want user_oauth or oidc_federation", a.Type)
	}
	return nil
}

// user is the token of somebody who has logged in.
func (p *profile) user(ctx context.Context, ask asking, refused string) (string, time.Time, error) {
	file := p.Auth.Credentials
	c, err := readKept(file) // anew: others renew it, too
	if err != nil {
		return "", time.Time{}, fatal(0, err.Error(), hintLogin)
	}
	if t := c.fresh(refused); t != "" {
		return t, c.until(), nil
	}
	if p.Auth.Client == "" {
		return "", time.Time{}, fatal(0, "the token in "+file+" has expired, and the profile has no client_id to renew it by", hintLogin)
	}
	got, until, err := ask.token(ctx, betaOAuth, hintLogin, map[string]string{
		"grant_type": "refresh_token", "refresh_token": c.Refresh, "client_id": p.Auth.Client,
	})
	if err != nil {
		return "", time.Time{}, err
	}
	if err := c.write(file, got, until); err != nil { // the old refresh token may be spent
		return "", time.Time{}, fatal(0, err.Error(), "the renewed token must be kept: make the file writable")
	}
	return got.Access, until, nil
}

// federated is the token that an identity token is exchanged for. It is kept in a
// file where the profile is one.
func (p *profile) federated(ctx context.Context, ask asking, refused string) (string, time.Time, error) {
	file := p.Auth.Credentials
	c := &kept{all: map[string]json.RawMessage{}}
	if file != "" {
		if old, err := readKept(file); err == nil {
			c = old
			if t := c.fresh(refused); t != "" {
				return t, c.until(), nil
			}
		}
	}
	assertion := p.literal
	if i := p.Auth.Identity; i != nil {
		b, err := os.ReadFile(i.Path)
		if err != nil {
			return "", time.Time{}, fatal(0, "the identity token cannot be read: "+err.Error(), hintIdentity)
		}
		assertion = strings.TrimSpace(string(b))
	}
	if assertion == "" || len(assertion) > maxIdentity {
		return "", time.Time{}, fatal(0, fmt.Sprintf("the identity token has %d bytes, want 1 to %d", len(assertion), maxIdentity), hintIdentity)
	}
	form := map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion,
		"federation_rule_id": p.Auth.Rule, "organization_id": p.Organization,
	}
	if p.Auth.Account != "" {
		form["service_account_id"] = p.Auth.Account
	}
	if p.Workspace != "" {
		form["workspace_id"] = p.Workspace
	}
	got, until, err := ask.token(ctx, betaOAuth+","+betaFederation, hintIdentity, form)
	if err != nil {
		return "", time.Time{}, err
	}
	if file != "" && !until.IsZero() {
		_ = c.write(file, got, until) // it only saves an exchange
	}
	return got.Access, until, nil
}

// asking is where tokens are given.
type asking struct {
	base string
	http http.RoundTripper
}

// given is a token as the service gives it.
type given struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Type    string `json:"token_type"`
	Expires *int   `json:"expires_in"` // seconds
}

// token asks for one.
func (a asking) token(ctx context.Context, beta, hint string, form map[string]string) (g given, until time.Time, err error) {
	body, err := json.Marshal(form)
	if err != nil {
		return g, until, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+tokenPath, bytes.NewReader(body))
	if err != nil {
		return g, until, err
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "Anthropic-Beta": {beta}, "User-Agent": {"matrix"}}
	res, err := a.http.RoundTrip(req)
	if err != nil {
		return g, until, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return g, until, err
	}
	if res.StatusCode != http.StatusOK {
		f := fatal(res.StatusCode, spoken(answer), hint)
		if kind, _ := llm.Judge(res.StatusCode, "", ""); kind < llm.Refused { // an outage of who gives tokens
			f.Kind, f.Hint, f.After = kind, "", llm.RetryAfter(res.Header, time.Now())
		}
		return g, until, f
	}
	if json.Unmarshal(answer, &g) != nil || g.Access == "" || g.Type != "" && !strings.EqualFold(g.Type, "bearer") {
		return g, until, &llm.Failure{Kind: llm.Fault, Status: res.StatusCode, Msg: "no access token: the answer holds none"}
	}
	if g.Expires != nil {
		until = time.Now().Add(time.Duration(*g.Expires) * time.Second)
	}
	return g, until, nil
}

// spoken is what the service says of a token that it does not give: what is
// documented of it, and so none of the secrets that it may repeat.
func spoken(answer []byte) string {
	var e struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	_ = json.Unmarshal(answer, &e) // what it is not says no more than its status
	var inner struct{ Type, Message string }
	var code string
	if json.Unmarshal(e.Error, &code) != nil && json.Unmarshal(e.Error, &inner) == nil {
		code, e.Description = inner.Type, inner.Message
	}
	return llm.Shorten(strings.TrimSpace(code+" "+e.Description), 300)
}

// fatal is that there is no token until a person changes something.
func fatal(status int, msg, hint string) *llm.Failure {
	return &llm.Failure{Kind: llm.Fatal, Status: status, Msg: strings.TrimSuffix("no access token: "+msg, ": "), Hint: hint}
}

// kept is a file of credentials.
type kept struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	Expires *int64 `json:"expires_at"` // seconds since 1970; nil: it does not end

	all map[string]json.RawMessage
}

// readKept reads a file of credentials, which nobody else may be able to read.
func readKept(file string) (*kept, error) {
	info, err := os.Lstat(file)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is a link or no file", file)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s can be read by others: chmod 600 it", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	c := &kept{}
	if err := errors.Join(json.Unmarshal(b, c), json.Unmarshal(b, &c.all)); err != nil {
		return nil, fmt.Errorf("%s is not JSON of credentials", file)
	}
	return c, nil
}

func (c *kept) until() time.Time {
	if c.Expires == nil {
		return time.Time{}
	}
	return time.Unix(*c.Expires, 0)
}

// fresh is the token, where it holds and was not refused.
func (c *kept) fresh(refused string) string {
	if c.Access == refused || c.Expires != nil && time.Until(c.until()) <= least {
		return ""
	}
	return c.Access
}

// write keeps a token in place of the old one, and all else that the file had.
func (c *kept) write(file string, g given, until time.Time) error {
	set := func(key string, v any) error {
		b, err := json.Marshal(v)
		c.all[key] = b
		return err
	}
	err := set("access_token", g.Access)
	if g.Refresh != "" {
		err = errors.Join(err, set("refresh_token", g.Refresh))
	}
	if delete(c.all, "expires_at"); !until.IsZero() {
		err = errors.Join(err, set("expires_at", until.Unix()))
	}
	for key, v := range map[string]string{"version": "1.0", "type": "oauth_token"} {
		if c.all[key] == nil {
			err = errors.Join(err, set(key, v))
		}
	}
	b, e := json.MarshalIndent(c.all, "", "  ")
	if err = errors.Join(err, e, os.MkdirAll(filepath.Dir(file), 0o700)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)) // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
