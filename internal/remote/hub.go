package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// hub is a dataset on the Hugging Face hub, at one commit.
type hub struct {
	endpoint, repo, revision, token string
	files                           map[string]hubFile
	commit                          string
	order                           []string
}

type hubFile struct {
	size    int64
	version string
}

// openHub is the repository of datasets/ORG/NAME[@REVISION]/PATH, and the path within it.
func openHub(rest string) (store, string, error) {
	form := errors.New("want hf://datasets/ORG/NAME/FILE, with @REVISION behind the name for another one than main")
	parts := strings.SplitN(rest, "/", 4)
	if len(parts) < 3 || parts[0] != "datasets" || parts[1] == "" || parts[2] == "" {
		return nil, "", form
	}
	name, revision, ok := strings.Cut(parts[2], "@")
	if !ok {
		revision = "main"
	}
	revision, err := url.PathUnescape(revision)
	if err != nil || revision == "" {
		return nil, "", form
	}
	h := &hub{endpoint: "https://huggingface.co", repo: parts[1] + "/" + name, revision: revision, token: os.Getenv("HF_TOKEN")}
	if e := os.Getenv("HF_ENDPOINT"); e != "" {
		h.endpoint = strings.TrimRight(e, "/")
	}
	if len(parts) < 4 {
		return h, "", nil
	}
	return h, parts[3], nil
}

// request asks an address of the hub.
func (h *hub) request(ctx context.Context, method, address string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	return req, nil
}

// load asks for the commit of the revision, and which files it has.
func (h *hub) load(ctx context.Context) error {
	if h.files != nil {
		return nil
	}
	// https://huggingface.co/docs/hub/api: blobs brings sizes and hashes
	address := fmt.Sprintf("%s/api/datasets/%s/revision/%s?blobs=true", h.endpoint, h.repo, url.PathEscape(h.revision))
	f := &File{size: -1, tries: triesFind, explain: h.explain, request: func(ctx context.Context, method string) (*http.Request, error) {
		return h.request(ctx, method, address)
	}}
	res, cancel, err := f.get(ctx, 0, -1)
	if err != nil {
		return err
	}
	defer cancel()
	defer res.Body.Close()
	var said struct {
		SHA      string
		Siblings []struct {
			RFilename string
			Size      int64
			BlobID    string
			LFS       *struct {
				SHA256 string
				Size   int64
			}
		}
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<30)).Decode(&said); err != nil || said.SHA == "" {
		return fmt.Errorf("the hub's list of files cannot be read: %w", errors.Join(err, noCommit(said.SHA)))
	}
	h.commit, h.files = said.SHA, make(map[string]hubFile, len(said.Siblings))
	for _, s := range said.Siblings {
		file := hubFile{s.Size, s.BlobID}
		if s.LFS != nil {
			file = hubFile{s.LFS.Size, s.LFS.SHA256}
		}
		h.files[s.RFilename] = file
		h.order = append(h.order, s.RFilename)
	}
	return nil
}

func noCommit(sha string) error {
	if sha == "" {
		return errors.New("it names no commit")
	}
	return nil
}

func (h *hub) explain(code int, _ []byte) string {
	switch {
	case code == http.StatusUnauthorized && h.token == "":
		return fmt.Sprintf("there is no dataset %s with a revision %s, or it is private or gated: then set HF_TOKEN to a token that may read it", h.repo, h.revision)
	case code == http.StatusUnauthorized:
		return fmt.Sprintf("there is no dataset %s, or HF_TOKEN is not valid or may not read it", h.repo)
	case code == http.StatusForbidden && h.token == "":
		return "the dataset is gated: accept its conditions on its page, and set HF_TOKEN"
	case code == http.StatusForbidden:
		return "HF_TOKEN may not read it: accept the dataset's conditions on its page, or take a token that has access"
	case code == http.StatusNotFound:
		return fmt.Sprintf("there is no dataset %s, or it has no revision %s", h.repo, h.revision)
	}
	return ""
}

func (h *hub) list(ctx context.Context, prefix string, f func(key string, size int64, version string) bool) error {
	if err := h.load(ctx); err != nil {
		return err
	}
	for _, name := range h.order {
		if file := h.files[name]; strings.HasPrefix(name, prefix) && name != ".gitattributes" && !f(name, file.size, file.version) {
			return nil
		}
	}
	return nil
}

func (h *hub) file(key string, size int64, version string) *File {
	f := &File{Path: "hf://datasets/" + h.repo + "/" + key, pinned: true, size: size, version: version, explain: h.explain}
	f.request = func(ctx context.Context, method string) (*http.Request, error) {
		if err := h.load(ctx); err != nil {
			return nil, err
		}
		return h.request(ctx, method, fmt.Sprintf("%s/datasets/%s/resolve/%s/%s", h.endpoint, h.repo, h.commit, escaped(key)))
	}
	f.find = func(ctx context.Context) error {
		if err := h.load(ctx); err != nil {
			return err
		}
		found, ok := h.files[key]
		if !ok {
			return &StatusError{Code: http.StatusNotFound}
		}
		f.size, f.version = found.size, found.version
		return nil
	}
	return f
}
