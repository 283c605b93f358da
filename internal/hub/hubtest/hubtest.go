// Package hubtest is a hub in memory, for tests: it speaks the parts of the API of
// Hugging Face that a push uses, and refuses what that would refuse.
package hubtest

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Hub is a hub and the storage behind it, which has an address of its own.
type Hub struct {
	Token string // that may write
	Org   string // to which

	Multipart int64 // files of more bytes go in parts of so many; 0: in one

	// Refuse, if it is set, is asked of each request first: a status that is not 0 is
	// the answer, with a message and the hub's word for it.
	Refuse func(r *http.Request) (status int, code, message string)

	hub, storage *httptest.Server
	mu           sync.Mutex
	repos        map[string]*repo
	objects      map[string][]byte            // by SHA-256
	parts        map[string]map[string][]byte // by SHA-256 and number
	verified     map[string]bool
	wrong        []string
	puts         int
}

type repo struct {
	private bool
	head    int
	files   map[string]held
}

// held is a file: small ones have their content, and large ones name an object.
type held struct {
	content []byte
	lfs     string
}

// New begins a hub; Close ends it.
func New() *Hub {
	h := &Hub{Token: "hf_writes", Org: "org", repos: map[string]*repo{}, objects: map[string][]byte{}, parts: map[string]map[string][]byte{}, verified: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/repos/create", h.create)
	mux.HandleFunc("GET /api/datasets/{org}/{name}", h.in(h.info))
	mux.HandleFunc("GET /api/datasets/{org}/{name}/revision/{rev}", h.in(h.revision))
	mux.HandleFunc("GET /api/datasets/{org}/{name}/tree/{rev}", h.in(h.tree))
	mux.HandleFunc("POST /api/datasets/{org}/{name}/preupload/{rev}", h.in(h.preupload))
	mux.HandleFunc("POST /api/datasets/{org}/{name}/commit/{rev}", h.in(h.commit))
	mux.HandleFunc("POST /datasets/{org}/{git}/info/lfs/objects/batch", h.in(h.batch))
	mux.HandleFunc("POST /api/validate-yaml", func(w http.ResponseWriter, _ *http.Request) { // the hub's own client asks
		reply(w, map[string]any{"errors": []string{}, "warnings": []string{}})
	})
	mux.HandleFunc("POST /verify", h.verify)
	mux.HandleFunc("POST /complete", h.complete)
	h.hub = httptest.NewServer(h.guarded(mux, true))
	store := http.NewServeMux()
	store.HandleFunc("PUT /object/{oid}", h.put)
	store.HandleFunc("PUT /object/{oid}/{part}", h.put)
	h.storage = httptest.NewServer(h.guarded(store, false))
	return h
}

// URL is the address of the hub.
func (h *Hub) URL() string { return h.hub.URL }

// Close ends it.
func (h *Hub) Close() {
	h.hub.Close()
	h.storage.Close()
}

// Wrong are requests that the API does not allow, a line each.
func (h *Hub) Wrong() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.wrong)
}

// Puts is how many objects, and parts of them, were sent.
func (h *Hub) Puts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.puts
}

// Commits is how many commits a repository has, the first one, with which it begins, apart.
func (h *Hub) Commits(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.repos[name]; r != nil {
		return r.head
	}
	return -1
}

// Private reports whether a repository is.
func (h *Hub) Private(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repos[name] != nil && h.repos[name].private
}

// Files are what a repository holds, by path.
func (h *Hub) Files(name string) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string]string{}
	if r := h.repos[name]; r != nil {
		for path, f := range r.files {
			if all[path] = string(f.content); f.lfs != "" {
				all[path] = string(h.objects[f.lfs])
			}
		}
	}
	return all
}

// guarded answers as Refuse says, and wants the token at the hub, and nowhere else.
func (h *Hub) guarded(next http.Handler, own bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.Refuse != nil {
			if status, code, message := h.Refuse(r); status != 0 {
				_, _ = io.Copy(io.Discard, r.Body)
				refuse(w, status, code, message)
				return
			}
		}
		auth := r.Header.Get("Authorization")
		switch {
		case !own && auth != "":
			h.bad(w, "%s %s: the token was shown to the storage", r.Method, r.URL.Path)
		case own && auth != "Bearer "+h.Token && (auth != "" || r.URL.Query().Get("signature") != "secret"): // a signed address needs none
			refuse(w, http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}

// bad notes a request that the API does not allow.
func (h *Hub) bad(w http.ResponseWriter, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	h.mu.Lock()
	h.wrong = append(h.wrong, message)
	h.mu.Unlock()
	refuse(w, http.StatusBadRequest, "", message)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (h *Hub) create(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Type, Name, Organization string
		Private                  bool
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Type != "dataset" || q.Name == "" {
		h.bad(w, "create: got %+v (%v)", q, err)
		return
	}
	if q.Organization != h.Org {
		refuse(w, http.StatusForbidden, "", "You don't have the rights to create a dataset under the namespace \""+q.Organization+"\"")
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	name := q.Organization + "/" + q.Name
	if h.repos[name] != nil {
		refuse(w, http.StatusConflict, "", "You already created this dataset repo")
		return
	}
	h.repos[name] = &repo{private: q.Private, files: map[string]held{".gitattributes": {content: []byte("*.parquet filter=lfs\n")}}}
	reply(w, map[string]string{"url": h.hub.URL + "/datasets/" + name, "name": name})
}

// in finds the repository that a request is about.
func (h *Hub) in(f func(w http.ResponseWriter, r *http.Request, x *repo)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("name")
		if git := r.PathValue("git"); git != "" {
			name = strings.TrimSuffix(git, ".git")
		}
		h.mu.Lock()
		x := h.repos[r.PathValue("org")+"/"+name]
		h.mu.Unlock()
		switch rev := r.PathValue("rev"); {
		case x == nil:
			refuse(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
		case rev != "" && rev != "main":
			refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+rev)
		default:
			f(w, r, x)
		}
	}
}

func (h *Hub) info(w http.ResponseWriter, _ *http.Request, x *repo) {
	reply(w, map[string]any{"private": x.private})
}

func (x *repo) sha() string { return fmt.Sprintf("%040x", x.head+1) }

func (h *Hub) revision(w http.ResponseWriter, _ *http.Request, x *repo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	reply(w, map[string]any{"sha": x.sha()})
}

// page is how many files are told of at a time.
const page = 2

func (h *Hub) tree(w http.ResponseWriter, r *http.Request, x *repo) {
	h.mu.Lock()
	defer h.mu.Unlock()
	paths := slices.Sorted(maps.Keys(x.files))
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	all := []map[string]any{{"type": "directory", "path": "data", "oid": "0"}}
	for _, p := range paths[min(from, len(paths)):min(from+page, len(paths))] {
		f := x.files[p]
		one := map[string]any{"type": "file", "path": p, "size": len(f.content), "oid": gitID(f.content)}
		if f.lfs != "" {
			one["lfs"] = map[string]any{"oid": f.lfs, "size": len(h.objects[f.lfs]), "pointerSize": 130}
		}
		all = append(all, one)
	}
	if from+page < len(paths) {
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?recursive=true&expand=false&cursor=%d>; rel="next"`, h.hub.URL, r.URL.Path, from+page))
	}
	reply(w, all)
}

func gitID(content []byte) string {
	sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(content)), content...))
	return hex.EncodeToString(sum[:])
}

func (h *Hub) preupload(w http.ResponseWriter, r *http.Request, _ *repo) {
	var q struct {
		Files []struct {
			Path, Sample string
			Size         int64
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Files) > 256 {
		h.bad(w, "preupload: %d files (%v)", len(q.Files), err)
		return
	}
	type one struct {
		Path         string `json:"path"`
		UploadMode   string `json:"uploadMode"`
		ShouldIgnore bool   `json:"shouldIgnore"`
	}
	out := []one{}
	for _, f := range q.Files {
		sample, err := base64.StdEncoding.DecodeString(f.Sample)
		if err != nil || len(sample) > 512 || int64(len(sample)) > f.Size {
			h.bad(w, "preupload: a sample of %d bytes (%v)", len(sample), err)
			return
		}
		mode := "regular"
		if strings.HasSuffix(f.Path, ".parquet") || f.Size > 10<<20 || !utf8.Valid(sample) && len(sample) < 512 {
			mode = "lfs"
		}
		out = append(out, one{f.Path, mode, strings.HasSuffix(f.Path, ".tmp")})
	}
	reply(w, map[string]any{"files": out})
}

func (h *Hub) batch(w http.ResponseWriter, r *http.Request, _ *repo) {
	var q struct {
		Operation string
		Transfers []string
		HashAlgo  string `json:"hash_algo"`
		Objects   []struct {
			Oid  string
			Size int64
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Operation != "upload" || q.HashAlgo != "sha256" || !slices.Contains(q.Transfers, "basic") || !strings.Contains(r.Header.Get("Accept"), "git-lfs+json") {
		h.bad(w, "batch: got %+v (%v)", q, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	all := []map[string]any{}
	for _, o := range q.Objects {
		one := map[string]any{"oid": o.Oid, "size": o.Size, "authenticated": true}
		all = append(all, one)
		if h.objects[o.Oid] != nil && h.verified[o.Oid] {
			continue
		}
		up := map[string]any{"href": h.storage.URL + "/object/" + o.Oid + "?signature=secret", "header": map[string]string{}}
		if h.Multipart > 0 && o.Size > h.Multipart {
			header := map[string]string{"chunk_size": strconv.FormatInt(h.Multipart, 10)}
			for n := int64(0); n*h.Multipart < o.Size; n++ {
				header[fmt.Sprintf("%05d", n+1)] = fmt.Sprintf("%s/object/%s/%d?signature=secret", h.storage.URL, o.Oid, n+1)
			}
			up = map[string]any{"href": h.hub.URL + "/complete?signature=secret&oid=" + o.Oid, "header": header}
		}
		one["actions"] = map[string]any{"upload": up, "verify": map[string]any{"href": h.hub.URL + "/verify"}}
	}
	w.Header().Set("Content-Type", "application/vnd.git-lfs+json")
	_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": all})
}

func (h *Hub) put(w http.ResponseWriter, r *http.Request) {
	oid, part := r.PathValue("oid"), r.PathValue("part")
	b, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Query().Get("signature") != "secret" || r.ContentLength < 0 {
		h.bad(w, "put %s: %v, length %d, signature %q", oid, err, r.ContentLength, r.URL.Query().Get("signature"))
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.puts++
	if part == "" {
		h.objects[oid] = b
	} else {
		if h.parts[oid] == nil {
			h.parts[oid] = map[string][]byte{}
		}
		h.parts[oid][part] = b
	}
	w.Header().Set("Etag", `"`+gitID(b)+`"`)
}

func (h *Hub) complete(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Oid   string
		Parts []struct {
			PartNumber int
			Etag       string
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Oid != r.URL.Query().Get("oid") {
		h.bad(w, "complete: got %+v (%v)", q, err)
		return
	}
	h.mu.Lock()
	var whole []byte
	fault := ""
	for i, p := range q.Parts {
		b := h.parts[q.Oid][strconv.Itoa(p.PartNumber)]
		if p.PartNumber != i+1 || p.Etag != `"`+gitID(b)+`"` {
			fault = fmt.Sprintf("complete: part %d is %+v", i+1, p)
		}
		whole = append(whole, b...)
	}
	h.objects[q.Oid] = whole
	delete(h.parts, q.Oid)
	h.mu.Unlock()
	if fault != "" {
		h.bad(w, "%s", fault)
	}
}

func (h *Hub) verify(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Oid  string
		Size int
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		h.bad(w, "verify: %v", err)
		return
	}
	h.mu.Lock()
	b := h.objects[q.Oid]
	sum := sha256.Sum256(b)
	ok := hex.EncodeToString(sum[:]) == q.Oid && len(b) == q.Size
	h.verified[q.Oid] = ok
	h.mu.Unlock()
	if !ok {
		h.bad(w, "verify: object %s of %d bytes is not there", q.Oid, q.Size)
	}
}

func (h *Hub) commit(w http.ResponseWriter, r *http.Request, x *repo) {
	if r.Header.Get("Content-Type") != "application/x-ndjson" {
		h.bad(w, "commit: got a %s", r.Header.Get("Content-Type"))
		return
	}
	h.mu.Lock()
	status, message := x.apply(h, r.Body)
	sha := x.sha()
	h.mu.Unlock()
	switch status {
	case http.StatusOK:
		reply(w, map[string]any{"success": true, "commitOid": sha, "commitUrl": h.hub.URL + "/datasets/" + r.PathValue("org") + "/" + r.PathValue("name") + "/commit/" + sha})
	case http.StatusPreconditionFailed:
		refuse(w, status, "", message)
	default:
		h.bad(w, "%s", message)
	}
}

// apply makes a commit, whole or not at all.
func (x *repo) apply(h *Hub, body io.Reader) (status int, message string) {
	files := maps.Clone(x.files)
	in := bufio.NewScanner(body)
	in.Buffer(nil, 64<<20)
	for n := 0; in.Scan(); n++ {
		var line struct {
			Key   string
			Value struct {
				Summary, ParentCommit, Path, Content, Encoding, Algo, Oid string
				Size                                                      int
			}
		}
		if err := json.Unmarshal(in.Bytes(), &line); err != nil || (n == 0) != (line.Key == "header") {
			return http.StatusBadRequest, fmt.Sprintf("commit: line %d is %s (%v)", n+1, bytes.TrimSpace(in.Bytes()), err)
		}
		v := &line.Value
		switch line.Key {
		case "header":
			if v.Summary == "" {
				return http.StatusBadRequest, "commit: no summary"
			}
			if v.ParentCommit != "" && v.ParentCommit != x.sha() {
				return http.StatusPreconditionFailed, "A commit has happened since. Please refresh and try again."
			}
		case "file":
			content, err := base64.StdEncoding.DecodeString(v.Content)
			if err != nil || v.Encoding != "base64" {
				return http.StatusBadRequest, fmt.Sprintf("commit: %s is no base64 (%v)", v.Path, err)
			}
			files[v.Path] = held{content: content}
		case "lfsFile":
			if v.Algo != "sha256" || !h.verified[v.Oid] || len(h.objects[v.Oid]) != v.Size {
				return http.StatusBadRequest, "commit: " + v.Path + " was not uploaded"
			}
			files[v.Path] = held{lfs: v.Oid}
		case "deletedFile":
			if _, ok := files[v.Path]; !ok {
				return http.StatusBadRequest, "commit: there is no " + v.Path + " to delete"
			}
			delete(files, v.Path)
		default:
			return http.StatusBadRequest, "commit: there is no " + line.Key
		}
	}
	if err := in.Err(); err != nil {
		return http.StatusBadRequest, err.Error()
	}
	x.files = files
	x.head++
	return http.StatusOK, ""
}
