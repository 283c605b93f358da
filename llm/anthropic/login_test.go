package anthropic

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

// nobody makes an environment without credentials, and returns the folder of
// Anthropic's tools.
func nobody(t *testing.T) string {
	t.Helper()
	for _, name := range []string{
		"API_KEY", "AUTH_TOKEN", "BASE_URL", "PROFILE", "FEDERATION_RULE_ID", "ORGANIZATION_ID", "WORKSPACE_ID",
		"SERVICE_ACCOUNT_ID", "IDENTITY_TOKEN", "IDENTITY_TOKEN_FILE",
	} {
		t.Setenv("ANTHROPIC_"+name, "")
	}
	dir := t.TempDir()
	t.Setenv("ANTHROPIC_CONFIG_DIR", dir)
	return dir
}

func put(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// office is a fake of the service that gives tokens and answers those who bring
// the newest.
type office struct {
	token  string // that is taken; empty: any
	asked  []map[string]string
	betas  []string // of what is asked for tokens
	calls  []http.Header
	status int // of what is asked for tokens; 0: 200
}

func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/v1/oauth/token" {
		var form map[string]string
		if err := json.NewDecoder(r.Body).Decode(&form); err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		o.asked, o.betas = append(o.asked, form), append(o.betas, r.Header.Get("Anthropic-Beta"))
		if o.status != 0 {
			w.WriteHeader(o.status)
			w.Write(encode(map[string]any{"error": "invalid_grant", "error_description": "it is spent", "assertion": form["assertion"]}))
			return
		}
		o.token = "token-" + string(rune('0'+len(o.asked))) + "-of-the-office"
		w.Write(encode(map[string]any{"access_token": o.token, "refresh_token": "again-2", "token_type": "Bearer", "expires_in": 3600}))
		return
	}
	o.calls = append(o.calls, r.Header.Clone())
	if o.token != "" && r.Header.Get("Authorization") != "Bearer "+o.token {
		w.WriteHeader(http.StatusUnauthorized)
		w.Write([]byte(`{"type":"error","error":{"type":"authentication_error","message":"OAuth token has expired"}}`))
		return
	}
	w.Write(encode(envelope(&llm.Reply{}, []any{}, "end_turn")))
}

// call makes a driver to o, and one call.
func (o *office) call(t *testing.T, options Config) (*Driver, error) {
	t.Helper()
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	options.BaseURL, options.Model = s.URL+"/v1", testModel
	w, err := New(options)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { w.Close() })
	_, err = w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}})
	return w, err
}

const userProfile = `{"version":"1.0","authentication":{"type":"user_oauth","client_id":"c-1","new":true},"workspace_id":"wrkspc_1"}`

// A token of somebody who has logged in is renewed, and kept with all else that
// the file had.
func TestProfile(t *testing.T) {
	dir := nobody(t)
	put(t, filepath.Join(dir, "active_config"), "work\n")
	put(t, filepath.Join(dir, "configs", "work.json"), userProfile)
	file := put(t, filepath.Join(dir, "credentials", "work.json"), `{"type":"oauth_token","access_token":"old-token","refresh_token":"again-1","expires_at":1,"account_email":"a@b"}`)
	o := &office{}
	if _, err := o.call(t, Config{Headers: map[string]string{"anthropic-beta": "x-1"}}); err != nil {
		t.Fatal(err)
	}
	if want := []map[string]string{{"grant_type": "refresh_token", "refresh_token": "again-1", "client_id": "c-1"}}; !reflect.DeepEqual(o.asked, want) {
		t.Errorf("asked %v, want %v", o.asked, want)
	}
	if o.betas[0] != "oauth-2025-04-20" {
		t.Errorf("asked under %q", o.betas[0])
	}
	h := o.calls[0]
	if h.Get("Anthropic-Beta") != "x-1,oauth-2025-04-20" || h.Get("Anthropic-Workspace-Id") != "wrkspc_1" || h.Get("X-Api-Key") != "" {
		t.Errorf("the call had %v", h)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]any
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	if until, _ := kept["expires_at"].(float64); time.Until(time.Unix(int64(until), 0)) < 50*time.Minute {
		t.Errorf("expires_at: got %v", kept["expires_at"])
	}
	delete(kept, "expires_at")
	if want := map[string]any{"version": "1.0", "type": "oauth_token", "access_token": "token-1-of-the-office", "refresh_token": "again-2", "account_email": "a@b"}; !maps.Equal(kept, want) {
		t.Errorf("kept %v, want %v", kept, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

// A token that holds is used as it is; one that the service does not take is
// renewed in the same try, once.
func TestRefusedToken(t *testing.T) {
	dir := nobody(t)
	t.Setenv("ANTHROPIC_PROFILE", "work")
	put(t, filepath.Join(dir, "configs", "work.json"), userProfile)
	put(t, filepath.Join(dir, "credentials", "work.json"), `{"access_token":"good-token","refresh_token":"again-1"}`)
	o := &office{}
	w, err := o.call(t, Config{})
	if err != nil || len(o.asked) != 0 || o.calls[0].Get("Authorization") != "Bearer good-token" {
		t.Fatalf("got %v, %d tokens asked for, %v", err, len(o.asked), o.calls)
	}
	o.token = "another"
	if _, err := w.Send(t.Context(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "go"}}}); err != nil {
		t.Fatal(err)
	}
	if len(o.asked) != 1 || len(o.calls) != 3 {
		t.Errorf("%d tokens asked for in %d calls, want 1 in 3", len(o.asked), len(o.calls))
	}
}

func TestFederation(t *testing.T) {
	exchange := map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c", "federation_rule_id": "fdrl_1",
		"organization_id": "org_1", "service_account_id": "svac_1", "workspace_id": "wrkspc_1",
	}
	for _, c := range []struct {
		name    string
		profile bool
	}{{"environment", false}, {"profile", true}} {
		t.Run(c.name, func(t *testing.T) {
			dir := nobody(t)
			identity := put(t, filepath.Join(dir, "identity"), "a.b.c\n")
			if c.profile {
				put(t, filepath.Join(dir, "configs", "default.json"), string(encode(map[string]any{
					"authentication": map[string]any{
						"type": "oidc_federation", "federation_rule_id": "fdrl_1", "service_account_id": "svac_1",
						"identity_token": map[string]any{"source": "file", "path": identity},
					},
					"organization_id": "org_1", "workspace_id": "wrkspc_1",
				})))
			} else {
				for k, v := range map[string]string{
					"FEDERATION_RULE_ID": "fdrl_1", "ORGANIZATION_ID": "org_1", "SERVICE_ACCOUNT_ID": "svac_1", "WORKSPACE_ID": "wrkspc_1",
					"IDENTITY_TOKEN_FILE": identity,
				} {
					t.Setenv("ANTHROPIC_"+k, v)
				}
			}
			o := &office{}
			if _, err := o.call(t, Config{}); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(o.asked, []map[string]string{exchange}) || o.betas[0] != "oauth-2025-04-20,oidc-federation-2026-04-01" {
				t.Errorf("asked %v under %q, want %v", o.asked, o.betas, exchange)
			}
			if h := o.calls[0]; h.Get("Anthropic-Workspace-Id") != "" || h.Get("Anthropic-Beta") != "oauth-2025-04-20" {
				t.Errorf("the call had %v", h)
			}
			_, err := os.Stat(filepath.Join(dir, "credentials", "default.json"))
			if kept := err == nil; kept != c.profile {
				t.Errorf("kept in a file: %v, want %v", kept, c.profile)
			}
			before := len(o.asked)
			if _, err := o.call(t, Config{}); err != nil { // another process
				t.Fatal(err)
			}
			if more := len(o.asked) - before; more != map[bool]int{true: 0, false: 1}[c.profile] {
				t.Errorf("the next process asked for %d tokens", more)
			}
		})
	}
}

// A token that is not given stops the model, or is waited for, by its status; the
// identity token is not shown.
func TestNoToken(t *testing.T) {
	for status, want := range map[int]llm.Kind{400: llm.Fatal, 401: llm.Fatal, 429: llm.Capacity, 503: llm.Capacity, 500: llm.Fault} {
		nobody(t)
		for k, v := range map[string]string{"FEDERATION_RULE_ID": "fdrl_1", "ORGANIZATION_ID": "org_1", "IDENTITY_TOKEN": "secret.identity.token"} {
			t.Setenv("ANTHROPIC_"+k, v)
		}
		o := &office{status: status}
		_, err := o.call(t, Config{})
		var f *llm.Failure
		if !errors.As(err, &f) || f.Kind != want || f.Status != status || f.Sent || strings.Contains(f.Msg, "secret") || !strings.Contains(f.Msg, "it is spent") {
			t.Errorf("%d: got %v, want %v of what the service says", status, err, want)
		}
	}
}

func TestProfilesThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name, profile, credentials, want string
	}{
		{"not JSON", `{`, "", "default.json"},
		{"no authentication", `{}`, "", "no authentication"},
		{"unknown type", `{"authentication":{"type":"x"}}`, "", "want user_oauth or oidc_federation"},
		{"no credentials", userProfile, "", "no such file"},
		{"no token", userProfile, `{}`, "no access_token"},
		{"no refresh token", userProfile, `{"access_token":"x"}`, "no refresh_token"},
		{"expired", `{"authentication":{"type":"user_oauth"}}`, `{"access_token":"x","expires_at":1}`, "has expired"},
		{"no rule", `{"authentication":{"type":"oidc_federation"}}`, "", "federation_rule_id"},
		{"no identity", `{"authentication":{"type":"oidc_federation","federation_rule_id":"f"},"organization_id":"o"}`, "", "identity_token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := nobody(t)
			put(t, filepath.Join(dir, "configs", "default.json"), c.profile)
			if c.credentials != "" {
				put(t, filepath.Join(dir, "credentials", "default.json"), c.credentials)
			}
			_, err := New(Config{Model: "m"})
			var f *llm.FieldError
			if !errors.As(err, &f) || f.Field != "api_key" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want one of api_key with %q", err, c.want)
			}
		})
	}
	t.Run("others can read it", func(t *testing.T) {
		dir := nobody(t)
		put(t, filepath.Join(dir, "configs", "default.json"), userProfile)
		if err := os.Chmod(put(t, filepath.Join(dir, "credentials", "default.json"), `{"access_token":"x","refresh_token":"y"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Model: "m"}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("got %v, want chmod 600", err)
		}
	})
	t.Run("no such profile", func(t *testing.T) {
		nobody(t)
		t.Setenv("ANTHROPIC_PROFILE", "gone")
		if _, err := New(Config{Model: "m"}); err == nil || !strings.Contains(err.Error(), `"gone"`) {
			t.Errorf("got %v, want its name", err)
		}
	})
	t.Run("half an identity", func(t *testing.T) {
		nobody(t)
		t.Setenv("ANTHROPIC_FEDERATION_RULE_ID", "f")
		if _, err := New(Config{Model: "m"}); err == nil || !strings.Contains(err.Error(), "ANTHROPIC_IDENTITY_TOKEN_FILE") {
			t.Errorf("got %v, want what is missing", err)
		}
	})
}
