package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"matrix/internal/hub/hubtest"
	"matrix/internal/python"
)

// bed is a hub, and a folder to be pushed to it.
type bed struct {
	*testing.T
	*hubtest.Hub
	dir    string
	client *Client
	waits  []time.Duration
}

func newBed(t *testing.T) *bed {
	b := &bed{T: t, Hub: hubtest.New(), dir: t.TempDir()}
	t.Cleanup(b.Hub.Close)
	c, err := New(Options{Endpoint: b.URL() + "/", Token: b.Token, Agent: "matrix/test", Wait: func(_ context.Context, d time.Duration) error {
		b.waits = append(b.waits, d)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.client = c
	b.write("README.md", "---\nlicense: mit\n---\n")
	b.write("data/train-00000-of-00002.parquet", strings.Repeat("PAR1 one ", 5000))
	b.write("data/train-00001-of-00002.parquet", strings.Repeat("PAR1 two ", 50))
	b.write("data/test-00000-of-00001.jsonl", "{\"x\": 1}\n")
	b.write(".export", "not to be pushed")
	b.write("data/.export-1/x", "not to be pushed")
	return b
}

func (b *bed) write(name, content string) {
	b.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		b.Fatal(err)
	}
}

func (b *bed) push() (*Pushed, error) {
	return b.client.Push(b.Context(), Push{Dir: b.dir, Repo: "org/set", Private: true, Stale: func(path string) bool { return strings.HasPrefix(path, "data/") }})
}

// holds compares the repository with the folder.
func (b *bed) holds() {
	b.Helper()
	want := map[string]string{}
	for _, name := range []string{"README.md", "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.jsonl"} {
		if content, err := os.ReadFile(filepath.Join(b.dir, name)); err == nil {
			want[name] = string(content)
		}
	}
	got := b.Files("org/set")
	delete(got, ".gitattributes")
	if !maps.Equal(got, want) {
		b.Errorf("the repository holds\n%.300q\nwant\n%.300q", got, want)
	}
	if wrong := b.Wrong(); len(wrong) > 0 {
		b.Errorf("the hub was asked what it does not know: %v", wrong)
	}
}

// A folder is pushed by one commit; what has not changed is not sent again, and what is
// there no more is removed.
func TestPush(t *testing.T) {
	for _, parts := range []int64{0, 7000} {
		t.Run(fmt.Sprint("in parts of ", parts), func(t *testing.T) {
			b := newBed(t)
			b.Multipart = parts
			p, err := b.push()
			if err != nil {
				t.Fatal(err)
			}
			if p.Sent != 4 || p.Same != 0 || p.Bytes != 45450 || b.Commits("org/set") != 1 || !b.Private("org/set") || p.URL != b.URL()+"/datasets/org/set" {
				t.Errorf("got %+v and %d commits", p, b.Commits("org/set"))
			}
			b.holds()
			puts := b.Puts()
			if want := map[int64]int{0: 2, 7000: 8}[parts]; puts != want {
				t.Errorf("got %d uploads, want %d", puts, want)
			}
			if p, err = b.push(); err != nil || p.Commit != "" || p.Same != 4 || b.Puts() != puts || b.Commits("org/set") != 1 {
				t.Errorf("again: got %+v, %v, %d uploads", p, err, b.Puts()-puts)
			}
			b.write("README.md", "changed")
			if p, err = b.push(); err != nil || p.Sent != 1 || p.Same != 3 || b.Puts() != puts {
				t.Errorf("a card that has changed: got %+v, %v, %d uploads", p, err, b.Puts()-puts)
			}
			b.holds()
			if err := os.Remove(filepath.Join(b.dir, "data/train-00001-of-00002.parquet")); err != nil {
				t.Fatal(err)
			}
			if p, err = b.push(); err != nil || p.Removed != 1 || p.Sent != 0 {
				t.Errorf("a file less: got %+v, %v", p, err)
			}
			b.holds()
		})
	}
}

// What was sent before a push ended counts for the next one.
func TestPushResumes(t *testing.T) {
	b := newBed(t)
	b.Refuse = func(r *http.Request) (int, string, string) {
		if strings.HasSuffix(r.URL.Path, "/commit/main") {
			return 500, "", "internal"
		}
		return 0, "", ""
	}
	var e *Error
	if _, err := b.push(); !errors.As(err, &e) || e.Status != 500 || len(b.Files("org/set")) != 1 {
		t.Fatalf("got %v and %v", err, b.Files("org/set"))
	}
	puts := b.Puts()
	b.Refuse = nil
	if p, err := b.push(); err != nil || p.Bytes != 0 || b.Puts() != puts {
		t.Errorf("got %+v, %v and %d more uploads, want none", p, err, b.Puts()-puts)
	}
	b.holds()
}

// What passes is tried again, ever later; the answer of a commit that was lost is found
// out, and so is one of somebody else.
func TestPushTriesAgain(t *testing.T) {
	b := newBed(t)
	faults := map[string]int{}
	var answers atomic.Int32
	b.Refuse = func(r *http.Request) (int, string, string) {
		key := r.Method + " " + r.URL.Path
		if faults[key]++; faults[key] <= 2 {
			return []int{503, 429}[faults[key]-1], "", "later"
		}
		return 0, "", ""
	}
	inner := b.client.http.Transport
	b.client.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		res, err := inner.RoundTrip(r)
		if err == nil && strings.HasSuffix(r.URL.Path, "/commit/main") && res.StatusCode == 200 && answers.Add(1) == 1 {
			res.Body.Close()
			return nil, errors.New("connection reset")
		}
		return res, err
	})
	p, err := b.push()
	if err != nil {
		t.Fatal(err)
	}
	if b.Commits("org/set") != 1 || p.Same != 4 {
		t.Errorf("got %d commits and %+v, want the one whose answer was lost", b.Commits("org/set"), p)
	}
	if len(b.waits) < 4 || b.waits[0] != time.Second || b.waits[1] != 2*time.Second {
		t.Errorf("got waits %v", b.waits)
	}
	b.holds()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Each refusal says what was being done, and what the hub says, never the token; the
// repository is as it was.
func TestPushRefused(t *testing.T) {
	for name, c := range map[string]struct {
		at, code, message string
		status            int
		want              string
	}{
		"no such token":    {"/create", "", "Invalid credentials", 401, "make the dataset org/set: the hub says 401 Unauthorized: Invalid credentials"},
		"not allowed":      {"/preupload/", "", "your token TOKEN may not write", 403, "ask how files of org/set are stored: the hub says 403 Forbidden: your token *** may not write"},
		"no such branch":   {"/revision/", "RevisionNotFound", "Invalid rev id", 404, "look at branch main of org/set: the hub says 404 Not Found: Invalid rev id"},
		"quota":            {"/batch", "", "Private repository storage limit reached", 403, "ask where large files of org/set go: the hub says 403 Forbidden: Private repository storage limit reached"},
		"too large":        {"/object/", "", "", 413, "upload data/train-00000-of-00002.parquet: the hub says 413 Request Entity Too Large"},
		"out of order":     {"/commit/", "", "A commit has happened since", 412, "commit to org/set: the hub says 412 Precondition Failed: A commit has happened since"},
		"a fault":          {"/tree/", "", "down\nfor maintenance", 503, "list the files of org/set: the hub says 503 Service Unavailable: down for maintenance"},
		"no verification":  {"/verify", "", "corrupt", 422, "have data/train-00000-of-00002.parquet verified: the hub says 422 Unprocessable Entity: corrupt"},
		"a conflict, once": {"/commit/", "", "locked", 409, "commit to org/set: the hub says 409 Conflict: locked"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.Refuse = func(r *http.Request) (int, string, string) {
				if strings.Contains(r.URL.Path, c.at) {
					return c.status, c.code, strings.ReplaceAll(c.message, "TOKEN", b.Token)
				}
				return 0, "", ""
			}
			_, err := b.push()
			var e *Error
			if !errors.As(err, &e) || e.Status != c.status || e.Code != c.code || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if b.Commits("org/set") > 0 {
				t.Error("there was a commit")
			}
			b.Refuse = nil
			if _, err := b.push(); err != nil {
				t.Errorf("after that: %v", err)
			}
			b.holds()
		})
	}
	b := newBed(t)
	b.client.o.Token = "hf_other"
	var e *Error
	if _, err := b.push(); !errors.As(err, &e) || e.Status != 401 {
		t.Errorf("another token: got %v, want 401", err)
	}
	b.client.o.Token = b.Token
	if _, err := b.client.Push(t.Context(), Push{Dir: b.dir, Repo: "others/set"}); !errors.As(err, &e) || e.Status != 403 {
		t.Errorf("another organization: got %v, want 403", err)
	}
	b.Hub.Close()
	var gone *UnreachableError
	if _, err := b.push(); !errors.As(err, &gone) {
		t.Errorf("no hub: got %v, want an UnreachableError", err)
	}
}

// A token that may write, and make no repository, writes to one that is there.
func TestPushToWhatIsThere(t *testing.T) {
	b := newBed(t)
	if _, err := b.push(); err != nil {
		t.Fatal(err)
	}
	b.Refuse = func(r *http.Request) (int, string, string) {
		if strings.HasSuffix(r.URL.Path, "/create") {
			return 403, "", "no rights"
		}
		return 0, "", ""
	}
	b.write("README.md", "other")
	if p, err := b.push(); err != nil || p.Sent != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
	b.holds()
}

// A repository that has moved takes the commit where it is now.
func TestPushToWhatHasMoved(t *testing.T) {
	b := newBed(t)
	inner := b.client.http.Transport
	moved := 0
	b.client.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/commit/main") && r.URL.RawQuery == "" {
			moved++
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
			return &http.Response{StatusCode: http.StatusTemporaryRedirect, Header: http.Header{"Location": {r.URL.Path + "?moved"}}, Body: http.NoBody, Request: r}, nil
		}
		return inner.RoundTrip(r)
	})
	if _, err := b.push(); err != nil || moved != 1 {
		t.Fatalf("got %v, moved %d times", err, moved)
	}
	b.holds()
}

// A small file that changes while it is pushed ends that, and the repository is as it was.
func TestPushOfWhatChanges(t *testing.T) {
	b := newBed(t)
	b.Refuse = func(r *http.Request) (int, string, string) {
		if strings.HasSuffix(r.URL.Path, "/preupload/main") {
			b.write("README.md", "another one")
		}
		return 0, "", ""
	}
	if _, err := b.push(); err == nil || !strings.Contains(err.Error(), "README.md has changed while it was pushed") || b.Commits("org/set") != 0 {
		t.Errorf("got %v and %d commits", err, b.Commits("org/set"))
	}
}

// The token is for the hub alone, also where this one sends on to another server.
func TestPushRedirected(t *testing.T) {
	asked := 0
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s has the token", r.Method, r.URL)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer other.Close()
	b := newBed(t)
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer first.Close()
	b.client.o.Endpoint = first.URL
	var e *Error
	if _, err := b.push(); !errors.As(err, &e) || e.Status != http.StatusUnauthorized || asked == 0 {
		t.Errorf("got %v after %d requests, want 401", err, asked)
	}
}

// Names, folders and tokens that are none are said before anything is asked.
func TestPushUsage(t *testing.T) {
	b := newBed(t)
	asked := false
	b.Refuse = func(*http.Request) (int, string, string) { asked = true; return 500, "", "" }
	usage := new(*UsageError)
	for _, repo := range []string{"", "set", "org/", "/set", "a/b/c", "org/a--b", "org/..", "org/a b", "org/" + strings.Repeat("x", 100), "org/x.git", "o?x=/y"} {
		if _, err := b.client.Push(t.Context(), Push{Dir: b.dir, Repo: repo}); !errors.As(err, usage) {
			t.Errorf("%q: got %v, want a UsageError", repo, err)
		}
	}
	if _, err := b.client.Push(t.Context(), Push{Dir: t.TempDir(), Repo: "org/set"}); !errors.As(err, usage) {
		t.Errorf("an empty folder: got %v, want a UsageError", err)
	}
	if err := os.Symlink("README.md", filepath.Join(b.dir, "LINK.md")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.push(); !errors.As(err, usage) {
		t.Errorf("a link: got %v, want a UsageError", err)
	}
	if asked {
		t.Error("the hub was asked")
	}
	for _, o := range []Options{{Token: ""}, {Token: "a b"}, {Token: "a\nb"}, {Token: "x", Endpoint: "huggingface.co"}, {Token: "x", Endpoint: "ftp://x"}, {Token: "x", Endpoint: "https://me:pw@x"}} {
		if _, err := New(o); !errors.As(err, usage) || o.Token != "" && strings.Contains(err.Error(), "pw") {
			t.Errorf("%+v: got %v, want a UsageError", o, err)
		}
	}
}

// What the repository ignores is said, and a file that is there twice is sent once.
func TestPushIgnores(t *testing.T) {
	b := newBed(t)
	b.write("notes.tmp", "x")
	b.write("data/copy.parquet", strings.Repeat("PAR1 one ", 5000))
	p, err := b.push()
	if err != nil || len(p.Ignored) != 1 || p.Ignored[0] != "notes.tmp" || b.Puts() != 2 || p.Sent != 5 {
		t.Errorf("got %+v, %v and %d uploads", p, err, b.Puts())
	}
	if got := b.Files("org/set"); !bytes.Equal([]byte(got["data/copy.parquet"]), []byte(got["data/train-00000-of-00002.parquet"])) {
		t.Error("the copy is another file")
	}
}

// The hub of these tests answers the hub's own client so that it uploads a folder, too:
// what is pushed here and there is the same.
func TestHubsOwnClient(t *testing.T) {
	interpreter := python.Readers(t)
	if err := exec.CommandContext(t.Context(), interpreter, "-c", "import huggingface_hub").Run(); err != nil {
		t.Skip("this Python has no huggingface_hub: MATRIX_PYTHON names one that has datasets")
	}
	for _, parts := range []int64{0, 7000} {
		b := newBed(t)
		b.Multipart = parts
		cmd := exec.CommandContext(t.Context(), interpreter, "testdata/upload.py", b.URL(), b.Token, "org/set", b.dir)
		cmd.Env = append(os.Environ(), "HF_HUB_DISABLE_XET=1", "HF_HOME="+t.TempDir(), "HF_HUB_DISABLE_TELEMETRY=1")
		os.RemoveAll(filepath.Join(b.dir, ".export"))
		os.RemoveAll(filepath.Join(b.dir, "data", ".export-1"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b.holds()
		if p, err := b.push(); err != nil || p.Same != 4 || p.Commit != "" {
			t.Errorf("got %+v, %v, want nothing to be pushed", p, err)
		}
	}
}
