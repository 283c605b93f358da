package hub

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"matrix/internal/human"
)

// Push is a folder that becomes what a dataset of the hub holds.
type Push struct {
	Dir      string // what is in it, but for names that begin with a dot
	Repo     string // ORG/NAME; made where there is none
	Private  bool   // of a repository that is made
	Revision string // the branch; empty for main
	Message  string // of the commit

	// Stale reports whether a file of the repository that is not in the folder is to be
	// removed there; nil: none is.
	Stale func(path string) bool

	Tell func(line string) // of what is done; nil drops it
}

// Pushed is what a push did.
type Pushed struct {
	URL     string // of the dataset
	Commit  string // empty where the repository held all that already
	Sent    int    // files
	Bytes   int64  // that were sent: not those that the hub had
	Same    int    // files that were there
	Removed int
	Ignored []string // files that the repository's .gitignore leaves out
}

// file is one of the folder.
type file struct {
	path   string // in the repository
	local  string
	size   int64
	sha256 string
	git    string // the id that Git has for it
	head   []byte
	large  bool // goes to the storage of large files
}

// sampleBytes is how much of a file the hub wants to see to say how it is stored.
const sampleBytes = 512

// chunk is how many files are asked about at once.
const chunk = 256

// Push makes the repository hold what is in the folder, by one commit, and sends only what
// is not there. Whatever ends it, the repository is as it was before or as it is to be;
// what was sent counts when it is done again. A refusal is an Error, a folder or a name
// that cannot be pushed a UsageError.
func (c *Client) Push(ctx context.Context, p Push) (*Pushed, error) {
	if err := CheckRepo(p.Repo); err != nil {
		return nil, err
	}
	p.Revision = cmp.Or(p.Revision, "main")
	if p.Tell == nil {
		p.Tell = func(string) {}
	}
	files, err := filesOf(ctx, p.Dir)
	if err != nil {
		return nil, err
	}
	if err := c.create(ctx, &p); err != nil {
		return nil, err
	}
	out := &Pushed{URL: c.o.Endpoint + "/datasets/" + p.Repo}
	for try := 1; ; try++ {
		err := c.sync(ctx, &p, files, out)
		var e *Error
		if try < 3 && errors.As(err, &e) && (e.Status == http.StatusPreconditionFailed || e.Status == http.StatusConflict) {
			continue // the branch has moved: by somebody else, or by a commit whose answer was lost
		}
		return out, err
	}
}

// sync makes the branch, as it is now, hold the files.
func (c *Client) sync(ctx context.Context, p *Push, files []*file, out *Pushed) error {
	parent, err := c.head(ctx, p)
	if err != nil {
		return err
	}
	there, err := c.tree(ctx, p)
	if err != nil {
		return err
	}
	*out = Pushed{URL: out.URL, Bytes: out.Bytes}
	var send []*file
	for _, f := range files {
		if is, ok := there[f.path]; ok && (is.LFS != nil && is.LFS.Oid == f.sha256 || is.LFS == nil && is.Oid == f.git) {
			out.Same++
		} else {
			send = append(send, f)
		}
		delete(there, f.path)
	}
	var remove []string
	for name := range there {
		if p.Stale != nil && p.Stale(name) {
			remove = append(remove, name)
		}
	}
	slices.Sort(remove)
	if send, err = c.preupload(ctx, p, send, out); err != nil || len(send)+len(remove) == 0 {
		return err
	}
	if err := c.upload(ctx, p, send, out); err != nil {
		return err
	}
	out.Sent, out.Removed = len(send), len(remove)
	out.Commit, err = c.commit(ctx, p, parent, send, remove)
	return err
}

// filesOf are the files in a folder, in order, with their hashes.
func filesOf(ctx context.Context, dir string) ([]*file, error) {
	var all []*file
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		switch {
		case err != nil:
			return err
		case name != dir && strings.HasPrefix(e.Name(), "."):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return nil
		case !e.Type().IsRegular():
			return usagef("%s is not a file but %v: put a copy of what is meant in its place", name, e.Type())
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		f, err := hashed(name)
		if err != nil {
			return err
		}
		f.path = filepath.ToSlash(rel)
		all = append(all, f)
		return nil
	})
	if err == nil && len(all) == 0 {
		err = usagef("there is no file in %s", dir)
	}
	return all, err
}

// hashed reads a file.
func hashed(name string) (*file, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	f := &file{local: name, size: info.Size()}
	sum, git := sha256.New(), sha1.New()
	fmt.Fprintf(git, "blob %d\x00", f.size)
	b := bufio.NewReaderSize(in, 1<<20)
	head, _ := b.Peek(sampleBytes)
	f.head = bytes.Clone(head)
	n, err := io.Copy(io.MultiWriter(sum, git), b)
	if err == nil && n != f.size {
		err = fmt.Errorf("%s changes while it is read", name)
	}
	f.sha256, f.git = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(git.Sum(nil))
	return f, err
}

// at is the path of the API for a repository.
func (p *Push) at(what string) string {
	return "/api/datasets/" + p.Repo + "/" + what + "/" + url.PathEscape(p.Revision)
}

// create makes the repository where there is none.
func (c *Client) create(ctx context.Context, p *Push) error {
	org, name, _ := strings.Cut(p.Repo, "/")
	r, err := c.asJSON(ctx, request{doing: "make the dataset " + p.Repo, method: http.MethodPost, url: "/api/repos/create", okay: []int{http.StatusConflict, http.StatusForbidden}},
		map[string]any{"type": "dataset", "organization": org, "name": name, "private": p.Private}, nil)
	switch {
	case err != nil:
		return err
	case r.status == http.StatusForbidden: // some tokens may write to a repository, and make none
		_, err := c.asJSON(ctx, request{doing: "find the dataset " + p.Repo, method: http.MethodGet, url: "/api/datasets/" + p.Repo}, nil, nil)
		if e := (*Error)(nil); errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Status == http.StatusUnauthorized) {
			return c.refused("make the dataset "+p.Repo, r)
		}
		return err
	case r.status != http.StatusConflict:
		p.Tell("made " + p.Repo)
	}
	return nil
}

// head is the newest commit of the branch.
func (c *Client) head(ctx context.Context, p *Push) (string, error) {
	var at struct {
		Sha string `json:"sha"`
	}
	_, err := c.asJSON(ctx, request{doing: fmt.Sprintf("look at branch %s of %s", p.Revision, p.Repo), method: http.MethodGet, url: p.at("revision")}, nil, &at)
	return at.Sha, err
}

// held is a file of a repository.
type held struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Oid  string `json:"oid"`
	LFS  *struct {
		Oid string `json:"oid"`
	} `json:"lfs"`
}

// tree is what the branch holds, by path.
func (c *Client) tree(ctx context.Context, p *Push) (map[string]held, error) {
	all := map[string]held{}
	next := p.at("tree") + "?recursive=true&expand=false"
	for next != "" {
		var page []held
		r, err := c.asJSON(ctx, request{doing: "list the files of " + p.Repo, method: http.MethodGet, url: next, foreign: strings.HasPrefix(next, "http"), okay: []int{http.StatusNotFound}}, nil, &page)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			if f.Type == "file" {
				all[f.Path] = f
			}
		}
		next = nextPage(r.header.Get("Link"))
	}
	return all, nil
}

// nextPage is the address of the next page in a Link header (RFC 8288); empty for none.
func nextPage(link string) string {
	for part := range strings.SplitSeq(link, ",") {
		at, params, ok := strings.Cut(strings.TrimSpace(part), ">")
		if ok && strings.HasPrefix(at, "<") && strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			return at[1:]
		}
	}
	return ""
}

// sample is how a file begins, and mode how it is to be stored.
type (
	sample struct {
		Path   string `json:"path"`
		Size   int64  `json:"size"`
		Sample string `json:"sample"`
	}
	mode struct {
		Path         string `json:"path"`
		UploadMode   string `json:"uploadMode"`
		ShouldIgnore bool   `json:"shouldIgnore"`
	}
)

// preupload asks how files are to be stored, and leaves out those that the repository
// ignores.
func (c *Client) preupload(ctx context.Context, p *Push, files []*file, out *Pushed) ([]*file, error) {
	var keep []*file
	for group := range slices.Chunk(files, chunk) {
		var ask struct {
			Files []sample `json:"files"`
		}
		for _, f := range group {
			ask.Files = append(ask.Files, sample{f.path, f.size, base64.StdEncoding.EncodeToString(f.head)})
		}
		var got struct {
			Files []mode `json:"files"`
		}
		if _, err := c.asJSON(ctx, request{doing: "ask how files of " + p.Repo + " are stored", method: http.MethodPost, url: p.at("preupload")}, ask, &got); err != nil {
			return nil, err
		}
		for _, f := range group {
			i := slices.IndexFunc(got.Files, func(m mode) bool { return m.Path == f.path })
			switch {
			case i < 0:
				return nil, fmt.Errorf("ask how files of %s are stored: the hub did not say of %s", p.Repo, f.path)
			case got.Files[i].ShouldIgnore:
				out.Ignored = append(out.Ignored, f.path)
				continue
			}
			f.large = got.Files[i].UploadMode == "lfs" && f.size > 0
			keep = append(keep, f)
		}
	}
	return keep, nil
}

// commit makes the branch hold the files, and no more those to be removed.
func (c *Client) commit(ctx context.Context, p *Push, parent string, files []*file, remove []string) (string, error) {
	var got struct {
		Oid string `json:"commitOid"`
	}
	var failed atomic.Pointer[error] // of what is sent: it is not the hub's
	_, err := c.asJSON(ctx, request{doing: "commit to " + p.Repo, method: http.MethodPost, url: p.at("commit"), kind: "application/x-ndjson",
		body: func() (io.Reader, int64, error) {
			if err := failed.Load(); err != nil {
				return nil, 0, *err
			}
			r, w := io.Pipe() // small files are many at times, and one after the other is in memory
			go func() {
				err := p.write(w, parent, files, remove)
				if err != nil && !errors.Is(err, io.ErrClosedPipe) {
					failed.Store(&err)
				}
				w.CloseWithError(err)
			}()
			return r, -1, nil
		}}, nil, &got)
	if err := failed.Load(); err != nil {
		return "", *err
	}
	return got.Oid, err
}

// write writes a commit, as lines of JSON.
func (p *Push) write(w io.Writer, parent string, files []*file, remove []string) error {
	line := func(key string, value any) error {
		return json.NewEncoder(w).Encode(map[string]any{"key": key, "value": value})
	}
	header := map[string]string{"summary": cmp.Or(p.Message, "Upload with matrix"), "description": ""}
	if parent != "" {
		header["parentCommit"] = parent
	}
	err := line("header", header)
	for _, f := range files {
		switch {
		case err != nil:
		case f.large:
			err = line("lfsFile", map[string]any{"path": f.path, "algo": "sha256", "oid": f.sha256, "size": f.size})
		default:
			var content []byte
			if content, err = f.content(); err == nil {
				err = line("file", map[string]any{"path": f.path, "encoding": "base64", "content": base64.StdEncoding.EncodeToString(content)})
			}
		}
	}
	for _, name := range remove {
		if err == nil {
			err = line("deletedFile", map[string]any{"path": name})
		}
	}
	return err
}

// content is a file that is small, as it was hashed.
func (f *file) content() ([]byte, error) {
	b, err := os.ReadFile(f.local)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.sha256 {
		return nil, fmt.Errorf("%s has changed while it was pushed", f.local)
	}
	return b, nil
}

const lfsJSON = "application/vnd.git-lfs+json"

// object is a large file in what the storage says.
type object struct {
	Oid     string `json:"oid"`
	Size    int64  `json:"size"`
	Actions *struct {
		Upload *action `json:"upload"`
		Verify *action `json:"verify"`
	} `json:"actions"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// action is what is to be done with an object.
type action struct {
	Href   string         `json:"href"`
	Header map[string]any `json:"header"`
}

// upload sends the large ones of files that the storage does not have.
func (c *Client) upload(ctx context.Context, p *Push, files []*file, out *Pushed) error {
	var large []*file
	for _, f := range files {
		if f.large && !slices.ContainsFunc(large, func(o *file) bool { return o.sha256 == f.sha256 }) {
			large = append(large, f)
		}
	}
	for group := range slices.Chunk(large, chunk) {
		type one struct {
			Oid  string `json:"oid"`
			Size int64  `json:"size"`
		}
		ask := map[string]any{"operation": "upload", "transfers": []string{"basic", "multipart"}, "hash_algo": "sha256", "ref": map[string]string{"name": p.Revision}}
		var objects []one
		for _, f := range group {
			objects = append(objects, one{f.sha256, f.size})
		}
		ask["objects"] = objects
		var got struct {
			Objects []object `json:"objects"`
		}
		if _, err := c.asJSON(ctx, request{doing: "ask where large files of " + p.Repo + " go", method: http.MethodPost,
			url: "/datasets/" + p.Repo + ".git/info/lfs/objects/batch", kind: lfsJSON, accept: lfsJSON}, ask, &got); err != nil {
			return err
		}
		for _, f := range group {
			i := slices.IndexFunc(got.Objects, func(o object) bool { return o.Oid == f.sha256 })
			if i < 0 {
				return fmt.Errorf("upload %s: the hub did not say where it goes", f.path)
			}
			sent := out.Bytes
			if err := c.object(ctx, f, &got.Objects[i], out); err != nil {
				return err
			}
			if out.Bytes > sent {
				p.Tell(fmt.Sprintf("sent %s  %s bytes", f.path, human.Commas(f.size)))
			}
		}
	}
	return nil
}

// object sends a large file, where the storage does not have it.
func (c *Client) object(ctx context.Context, f *file, o *object, out *Pushed) error {
	doing := "upload " + f.path
	switch {
	case o.Error != nil:
		return &Error{Doing: doing, Status: o.Error.Code, Message: c.clean(o.Error.Message)}
	case o.Actions == nil || o.Actions.Upload == nil:
		return nil // it is there
	}
	up := o.Actions.Upload
	size := int64(0)
	if s, ok := up.Header["chunk_size"]; ok {
		n, err := strconv.ParseInt(fmt.Sprint(s), 10, 64)
		if err != nil || n < 1 {
			return fmt.Errorf("%s: the hub named parts of %v bytes", doing, s)
		}
		size = n
	}
	var err error
	if size > 0 {
		err = c.parts(ctx, f, up, size)
	} else {
		_, err = c.do(ctx, request{doing: doing, method: http.MethodPut, url: up.Href, foreign: true, body: f.section(0, f.size)})
	}
	if err != nil {
		return err
	}
	out.Bytes += f.size
	if v := o.Actions.Verify; v != nil {
		_, err = c.asJSON(ctx, request{doing: "have " + f.path + " verified", method: http.MethodPost, url: v.Href, foreign: true, accept: lfsJSON, kind: lfsJSON},
			map[string]any{"oid": f.sha256, "size": f.size}, nil)
	}
	return err
}

// parts sends a file in parts of so many bytes, and then says which they were.
func (c *Client) parts(ctx context.Context, f *file, up *action, size int64) error {
	type part struct {
		Number int    `json:"partNumber"`
		Etag   string `json:"etag"`
	}
	var sent []part
	for n := int64(0); n*size < f.size; n++ {
		doing := fmt.Sprintf("upload part %d of %s", n+1, f.path)
		href := ""
		for key, at := range up.Header {
			if is, err := strconv.ParseInt(key, 10, 64); err == nil && is == n+1 {
				href, _ = at.(string)
			}
		}
		if href == "" {
			return fmt.Errorf("%s: the hub named no place for it", doing)
		}
		r, err := c.do(ctx, request{doing: doing, method: http.MethodPut, url: href, foreign: true, body: f.section(n*size, min(size, f.size-n*size))})
		if err != nil {
			return err
		}
		if r.header.Get("Etag") == "" {
			return fmt.Errorf("%s: the storage did not say what it has", doing)
		}
		sent = append(sent, part{int(n) + 1, r.header.Get("Etag")})
	}
	_, err := c.asJSON(ctx, request{doing: "put the parts of " + f.path + " together", method: http.MethodPost, url: up.Href, foreign: true, accept: lfsJSON, kind: lfsJSON},
		map[string]any{"oid": f.sha256, "parts": sent}, nil)
	return err
}

// section is a part of the file as a body.
func (f *file) section(from, n int64) func() (io.Reader, int64, error) {
	return func() (io.Reader, int64, error) {
		in, err := os.Open(f.local)
		if err != nil {
			return nil, 0, err
		}
		return &section{io.NewSectionReader(in, from, n), in}, n, nil
	}
}

// section is a part of an open file, which it closes.
type section struct {
	io.Reader
	io.Closer
}
