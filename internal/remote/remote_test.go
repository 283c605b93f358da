package remote

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// server has files, by their path, and misbehaves as it is told.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	files  map[string]string
	cut    int  // each answer ends after so many bytes, if not 0
	down   int  // so many requests are answered by 503
	plain  bool // it has no ranges, no length and no versions
	noHead bool
	asked  []string
}

func newServer(t *testing.T, files map[string]string) *server {
	s := &server{files: files}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, r.URL.Path) }))
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request, key string) {
	s.mu.Lock()
	text, ok := s.files[key]
	s.asked = append(s.asked, fmt.Sprintf("%s %s %v", r.Method, key, r.Header))
	down, plain, noHead := s.down > 0, s.plain, s.noHead
	if s.down > 0 {
		s.down--
	}
	cut := s.cut
	s.mu.Unlock()
	switch {
	case down:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !ok:
		http.NotFound(w, r)
	case noHead && r.Method == http.MethodHead:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case plain:
		w.(http.Flusher).Flush() // no length
		if cut > 0 && r.Header.Get("X-Whole") == "" {
			text = text[:min(cut, len(text))]
		}
		_, _ = io.WriteString(w, text)
	default:
		w.Header().Set("Etag", fmt.Sprintf(`"%x"`, len(text)*31+int(text[0])))
		if cut > 0 {
			w = &cutter{w, cut}
		}
		http.ServeContent(w, r, "x", time.Time{}, strings.NewReader(text))
	}
}

// cutter ends the connection after so many bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func random(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	return string(b)
}

func found(t *testing.T, path string) *File {
	t.Helper()
	files, err := Find(t.Context(), path)
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: got %d files, %v", path, len(files), err)
	}
	return files[0]
}

func read(t *testing.T, f *File) (string, error) {
	t.Helper()
	r := f.Open(t.Context())
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

func TestURL(t *testing.T) {
	text := random(3 << 20)
	s := newServer(t, map[string]string{"/a/x.bin": text, "/a/empty": ""})
	f := found(t, strings.Replace(s.URL, "http://", "http://user:secret@", 1)+"/a/x.bin?token=secret#part")
	if f.Path != s.URL+"/a/x.bin" || f.Size() != int64(len(text)) || f.Version() == "" {
		t.Errorf("got %s, %d, %q", f.Path, f.Size(), f.Version())
	}
	if got, err := read(t, f); got != text || err != nil {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := iotest.TestReader(f.Open(t.Context()), []byte(text)); err != nil {
		t.Error(err)
	}
	s.noHead = true
	if g := found(t, s.URL+"/a/x.bin"); g.Size() != f.Size() || g.Version() != f.Version() {
		t.Errorf("without HEAD: got %d, %q", g.Size(), g.Version())
	}
	s.noHead = false
	if _, err := Find(t.Context(), s.URL+"/none?token=secret"); err == nil || !strings.Contains(err.Error(), "404 Not Found") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	closed := newServer(t, nil)
	closed.Close()
	if _, err := Find(t.Context(), closed.URL+"/x?token=secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// A connection that is cut, and a service that is out for a while, lose no byte.
func TestCutConnections(t *testing.T) {
	text := random(1 << 20)
	s := newServer(t, map[string]string{"/x": text})
	f := found(t, s.URL+"/x")
	s.cut, s.down = 100_000, 2
	if got, err := read(t, f); got != text || err != nil {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	r := f.Open(t.Context())
	defer r.Close()
	part := make([]byte, 300_000)
	if _, err := r.ReadAt(part, 400_000); err != nil || string(part) != text[400_000:700_000] {
		t.Errorf("got %v", err)
	}
	s.cut = 1 // a file is not taken to end where connections do
	f.tries = 1
	s.down = 1 << 30
	if _, err := read(t, f); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Open(ctx).Read(part); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A server that closes connections without a word is not at the end of the file.
func TestSilentServer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "10")
			return
		}
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	f := found(t, s.URL+"/x")
	f.tries = 2
	var cut *CutError
	if _, err := read(t, f); !errors.As(err, &cut) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutRanges(t *testing.T) {
	text := random(600_000)
	s := newServer(t, map[string]string{"/x": text})
	s.plain = true
	f := found(t, s.URL+"/x")
	if f.Size() >= 0 || f.Version() != "" {
		t.Errorf("got %d, %q", f.Size(), f.Version())
	}
	if got, err := read(t, f); got != text || err != nil {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	r := f.Open(t.Context())
	defer r.Close()
	if _, err := r.Seek(500_000, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); string(rest) != text[500_000:] || err != nil {
		t.Errorf("from the middle: got %d bytes, %v", len(rest), err)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); err == nil || !strings.Contains(err.Error(), "download it") {
		t.Errorf("got %v", err)
	}
}

func TestChangedFile(t *testing.T) {
	text := random(1 << 20)
	s := newServer(t, map[string]string{"/x": text})
	f := found(t, s.URL+"/x")
	r := f.Open(t.Context())
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"x" + text, "\x00" + text[1:]} {
		s.mu.Lock()
		s.files["/x"] = other
		s.mu.Unlock()
		var changed *ChangedError
		if _, err := io.Copy(io.Discard, r); !errors.As(err, &changed) {
			t.Errorf("got %v", err)
		}
		if now, err := f.Again(t.Context()); err != nil || now.Size() == f.Size() && now.Version() == f.Version() {
			t.Errorf("again: got %d, %q, %v", now.Size(), now.Version(), err)
		}
	}
}

// objects speaks as S3 does: signed requests, lists in pages, errors in XML.
func objects(t *testing.T, s *server, keys *aws.Credentials) {
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail := func(status int, code string) {
			w.WriteHeader(status)
			if r.Method != http.MethodHead {
				fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>no</Message></Error>`, code)
			}
		}
		if keys != nil {
			again := r.Clone(r.Context())
			again.URL.Host, again.URL.Scheme, again.Host = r.Host, "http", r.Host
			again.Header = http.Header{"X-Amz-Content-Sha256": r.Header["X-Amz-Content-Sha256"]}
			at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
			signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
			signed, _, _ := strings.Cut(r.Header.Get("Authorization"), "Signature=")
			if i := strings.Index(signed, "SignedHeaders="); i >= 0 && strings.Contains(signed[i:], "accept-encoding") {
				again.Header.Set("Accept-Encoding", r.Header.Get("Accept-Encoding"))
			}
			if err == nil {
				err = signer.SignHTTP(r.Context(), *keys, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", "eu-test-1", at)
			}
			if err != nil || again.Header.Get("Authorization") != r.Header.Get("Authorization") {
				t.Logf("signed %q, want %q", r.Header.Get("Authorization"), again.Header.Get("Authorization"))
				fail(http.StatusForbidden, "SignatureDoesNotMatch")
				return
			}
		}
		bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		switch {
		case bucket == "private":
			fail(http.StatusForbidden, "AccessDenied")
		case bucket == "elsewhere":
			fail(http.StatusMovedPermanently, "PermanentRedirect")
		case bucket != "data":
			fail(http.StatusNotFound, "NoSuchBucket")
		case key == "":
			s.list(w, r)
		default:
			if _, ok := s.files[key]; !ok {
				fail(http.StatusNotFound, "NoSuchKey")
				return
			}
			s.serve(w, r, key)
		}
	})
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	type object struct {
		Key  string
		Size int
		ETag string
	}
	var said struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		Contents              []object
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
	}
	var keys []string
	for k := range s.files {
		if strings.HasPrefix(k, r.FormValue("prefix")) && k > strings.TrimPrefix(r.FormValue("continuation-token"), "after ") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for i, k := range keys {
		if i == 2 { // a page
			said.IsTruncated, said.NextContinuationToken = true, "after "+keys[1]
			break
		}
		said.Contents = append(said.Contents, object{k, len(s.files[k]), fmt.Sprintf(`"%x"`, len(s.files[k])*31+int(s.files[k][0]))})
	}
	_ = xml.NewEncoder(w).Encode(said)
}

func TestObjects(t *testing.T) {
	files := map[string]string{"in/a b+c=é.jsonl": "{}\n", "in/b.jsonl": random(2 << 20), "in/c.jsonl": "c", "in/d.csv": "d", "in/deep/e.jsonl": "e", "other/f.jsonl": "f"}
	keys := aws.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: "secret"}
	for scheme, given := range map[string]*aws.Credentials{"s3": &keys, "gs": nil} {
		t.Run(scheme, func(t *testing.T) {
			s := newServer(t, files)
			objects(t, s, given)
			t.Setenv("AWS_ENDPOINT_URL_S3", s.URL)
			t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(s.URL, "http://"))
			t.Setenv("AWS_ACCESS_KEY_ID", keys.AccessKeyID)
			t.Setenv("AWS_SECRET_ACCESS_KEY", keys.SecretAccessKey)
			t.Setenv("AWS_REGION", "eu-test-1")
			t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
			found, err := Find(t.Context(), scheme+"://data/in/*.jsonl")
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range found {
				names = append(names, f.Path)
				key := strings.TrimPrefix(f.Path, scheme+"://data/")
				if got, err := read(t, f); got != files[key] || err != nil || f.Size() != int64(len(files[key])) {
					t.Errorf("%s: got %d bytes, %v", f.Path, len(got), err)
				}
				if one, err := Find(t.Context(), strings.NewReplacer("[", "x").Replace(f.Path)); err != nil || len(one) != 1 || one[0].Version() != f.Version() {
					t.Errorf("%s alone: %v", f.Path, err)
				}
			}
			if strings.Join(names, " ") != scheme+"://data/in/a b+c=é.jsonl "+scheme+"://data/in/b.jsonl "+scheme+"://data/in/c.jsonl" {
				t.Errorf("got %q", names)
			}
			for path, want := range map[string]string{
				"none/x.jsonl": "there is no bucket none", "none/*.jsonl": "there is no bucket none", "private/x": "may not read it", "data/in/f.jsonl": "no such file; did you mean in/b.jsonl?",
				"data/in": "names no file: say which files below it", "data/in/*.parquet": "matches no file", "data/**/x": "** is not supported", "data": "names no file", "/x": "want the name of a bucket",
				"elsewhere/*": "in another region",
			} {
				if scheme == "gs" && path == "private/x" {
					want = "there are no credentials of Google"
				}
				if _, err := Find(t.Context(), scheme+"://"+path); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: got %v, want %q", path, err, want)
				}
			}
			if scheme == "s3" {
				t.Setenv("AWS_SECRET_ACCESS_KEY", "another")
				if _, err := Find(t.Context(), "s3://data/in/c.jsonl"); err == nil || !strings.Contains(err.Error(), "the credentials are refused (SignatureDoesNotMatch)") {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// The hub has two datasets, one of them gated, and sends readers of files on to another server.
func TestHub(t *testing.T) {
	cdn := newServer(t, map[string]string{"/1": random(1 << 20), "/2": "{}\n"})
	names := map[string]string{"data/train-00000.parquet": "/1", "data/x y.jsonl": "/2", "README.md": "/2"}
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		switch {
		case strings.HasPrefix(path, "/api/datasets/org/gated/"), strings.HasPrefix(path, "/api/datasets/org/shut/"):
			switch {
			case r.Header.Get("Authorization") == "":
				w.WriteHeader(http.StatusUnauthorized)
				return
			case strings.Contains(path, "shut"):
				w.WriteHeader(http.StatusForbidden)
				return
			}
			fallthrough
		case path == "/api/datasets/org/open/revision/main", path == "/api/datasets/org/open/revision/refs%2Fconvert%2Fparquet":
			var siblings []string
			for name, at := range names {
				siblings = append(siblings, fmt.Sprintf(`{"rfilename": %q, "size": 130, "blobId": "b", "lfs": {"sha256": "abc%s", "size": %d}}`, name, at[1:], len(cdn.files[at])))
			}
			slices.Sort(siblings)
			fmt.Fprintf(w, `{"sha": "c0ffee", "siblings": [{"rfilename": ".gitattributes", "size": 1, "blobId": "x"}, %s]}`, strings.Join(siblings, ","))
		case strings.Contains(path, "/resolve/c0ffee/"):
			_, name, _ := strings.Cut(r.URL.Path, "/resolve/c0ffee/")
			if at, ok := names[name]; ok {
				http.Redirect(w, r, cdn.URL+at+"?signed", http.StatusFound)
				return
			}
			fallthrough
		default:
			http.NotFound(w, r)
		}
	}))
	defer hub.Close()
	t.Setenv("HF_ENDPOINT", hub.URL)
	t.Setenv("HF_TOKEN", "")
	for path, want := range map[string]string{"data/*.parquet": "/1", "data/x y.jsonl": "/2"} {
		f := found(t, "hf://datasets/org/open/"+path)
		if got, err := read(t, f); got != cdn.files[want] || err != nil || f.Version() != "abc"+want[1:] {
			t.Errorf("%s: got %d bytes, %q, %v", path, len(got), f.Version(), err)
		}
	}
	if f := found(t, "hf://datasets/org/open@refs%2Fconvert%2Fparquet/README.md"); f.Size() != 3 {
		t.Errorf("got %d", f.Size())
	}
	for path, want := range map[string]string{
		"datasets/org/none/x": "there is no dataset org/none, or it has no revision main", "datasets/org/gated/x": "set HF_TOKEN", "datasets/org/open/data/train.parquet": "no such file; did you mean data/train-00000.parquet?",
		"datasets/org/open": "names no file: say which files below it; there is README.md, data/train-00000.parquet, data/x y.jsonl", "datasets/org": "want hf://datasets/ORG/NAME/FILE", "org/open/x": "want hf://datasets/ORG/NAME/FILE",
		"datasets/org/open/data/*.csv": "matches no file; there is data/train-00000.parquet, data/x y.jsonl",
	} {
		if _, err := Find(t.Context(), "hf://"+path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	t.Setenv("HF_TOKEN", "hf_secret")
	if got, err := read(t, found(t, "hf://datasets/org/gated/data/x y.jsonl")); got != "{}\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Find(t.Context(), "hf://datasets/org/shut/x"); err == nil || !strings.Contains(err.Error(), "accept the dataset's conditions") {
		t.Errorf("got %v", err)
	}
	for _, asked := range cdn.asked {
		if strings.Contains(asked, "hf_secret") {
			t.Errorf("the token went on to another server: %s", asked)
		}
	}
}

// What proves who asks stays with the server that was asked.
func TestRedirects(t *testing.T) {
	other := newServer(t, map[string]string{"/data/x": "text"})
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer first.Close()
	t.Setenv("AWS_ENDPOINT_URL", first.URL)
	t.Setenv("AWS_REGION", "eu-test-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKID-secret")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "key")
	t.Setenv("AWS_SESSION_TOKEN", "session-secret")
	for _, path := range []string{"s3://data/x", strings.Replace(first.URL, "://", "://user:pass@", 1) + "/data/x?signature=secret"} {
		if got, err := read(t, found(t, path)); got != "text" || err != nil {
			t.Errorf("%s: got %q, %v", path, got, err)
		}
	}
	for _, asked := range other.asked {
		if strings.Contains(asked, "secret") || strings.Contains(asked, "Basic") {
			t.Errorf("what is secret went on to another server: %s", asked)
		}
	}
	if _, err := Find(t.Context(), "https://user:p%zz-secret@host/x"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}
