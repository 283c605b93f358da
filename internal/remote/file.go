package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	tries     = 10 // of a request, with no byte between them; about three minutes in all
	triesFind = 3  // before anything is read: who waits sees why soon
	firstWait = 250 * time.Millisecond
	maxPause  = 30 * time.Second
	patience  = time.Minute // without a byte
)

// File is a remote file. It may be used by several goroutines at once.
type File struct {
	Path string // without secrets

	request func(ctx context.Context, method string) (*http.Request, error)
	find    func(ctx context.Context) error    // in place of asking for size and version; may be nil
	explain func(code int, body []byte) string // what to do about a status; may be nil
	pinned  bool                               // what its request names never changes
	size    int64                              // -1 where it is not known
	version string                             // ETag, or when it was changed last; empty where that is not known
	tries   int                                // of a request; 0 for as many as in reading
}

// Size is how many bytes the file has; -1 where the server does not say.
func (f *File) Size() int64 { return f.size }

// Version tells what is in the file, by the server's words; it is empty where it does not say.
func (f *File) Version() string { return f.version }

// Again looks whether the file is as it was.
func (f *File) Again(ctx context.Context) (*File, error) {
	if f.pinned {
		return f, nil
	}
	now := *f
	now.size, now.version = -1, ""
	return &now, now.stat(ctx)
}

// stat asks for size and version.
func (f *File) stat(ctx context.Context) error {
	if f.find != nil {
		return f.find(ctx)
	}
	res, err := f.retry(ctx, triesFind, func() (*http.Response, error) { return f.send(ctx, http.MethodHead, 0, -1) })
	var status *StatusError
	if errors.As(err, &status) && (status.Code == http.StatusMethodNotAllowed || status.Code == http.StatusNotImplemented || status.Code == http.StatusForbidden || status.Code == http.StatusBadRequest) {
		// it has no HEAD, or an address that is signed for GET; or what is wrong it says in a body
		res, err = f.retry(ctx, triesFind, func() (*http.Response, error) { return f.send(ctx, http.MethodGet, 0, 0) })
	}
	if errors.As(err, &status) && status.Code == http.StatusRequestedRangeNotSatisfiable {
		f.size = 0
		return nil
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	f.size, f.version = sizeOf(res), versionOf(res.Header)
	return nil
}

// sizeOf is the size of the whole file that an answer tells.
func sizeOf(res *http.Response) int64 {
	if res.StatusCode == http.StatusPartialContent {
		_, total, _ := strings.Cut(res.Header.Get("Content-Range"), "/")
		if n, err := strconv.ParseInt(total, 10, 64); err == nil {
			return n
		}
		return -1
	}
	if n, err := strconv.ParseInt(res.Header.Get("X-Linked-Size"), 10, 64); err == nil { // the hub's, of large files
		return n
	}
	return res.ContentLength
}

func versionOf(h http.Header) string {
	for _, name := range []string{"Etag", "X-Goog-Generation", "Last-Modified"} {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

// send makes one request, of the bytes from..to (included) or on to the end where to is
// negative. Its answer is one of the file.
func (f *File) send(ctx context.Context, method string, from, to int64) (*http.Response, error) {
	req, err := f.request(ctx, method)
	if err != nil {
		return nil, err
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "identity")
	}
	switch {
	case to >= 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
	case from > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	client := &http.Client{CheckRedirect: Redirect}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent {
		return res, nil
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10)) // what is said of it is said by the status, too
	e := &StatusError{Code: res.StatusCode, wait: retryAfter(res.Header)}
	if f.explain != nil {
		e.Msg = f.explain(res.StatusCode, body)
	}
	return nil, e
}

// maxRedirects is how often a request goes on elsewhere.
const maxRedirects = 10

// Redirect is for http.Client.CheckRedirect: what proves who asks does not go to another
// server than the one that was asked, be it on the same host, below it, or the same one
// without TLS; nor does an address, which may be signed.
func Redirect(to *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("the server sends on %d times", maxRedirects)
	}
	if from := via[0].URL; to.URL.Scheme != from.Scheme || to.URL.Host != from.Host {
		for _, name := range []string{"Authorization", "X-Amz-Security-Token", "Referer"} {
			to.Header.Del(name)
		}
	}
	return nil
}

// retry makes a request until it is answered, or it is clear that it will not be.
func (f *File) retry(ctx context.Context, most int, send func() (*http.Response, error)) (*http.Response, error) {
	wait := firstWait
	for n := 1; ; n++ {
		res, err := send()
		var status *StatusError
		if err == nil || ctx.Err() != nil || n == most || errors.As(err, &status) && !status.passes() || permanent(err) {
			return res, withoutURL(err)
		}
		pause := wait
		if status != nil {
			pause = max(pause, status.wait)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		wait = min(2*wait, maxPause)
	}
}

// Open opens the file. It reads nothing yet.
func (f *File) Open(ctx context.Context) *Reader { return &Reader{f: f, ctx: ctx} }

// Reader reads a file, in ranges. It is not for several goroutines at once.
type Reader struct {
	f   *File
	ctx context.Context //nolint:containedctx // of a reader, as its methods have none
	pos int64           // of the next byte

	body   io.ReadCloser
	end    int64 // where the range of body ends; -1 where the file does
	cancel context.CancelFunc
	window int64 // the length of the next range

	blocks []block // of ReadAt, the one that was used last at the end
}

type block struct {
	n int64
	b []byte
}

const (
	firstWindow = 256 << 10
	maxWindow   = 16 << 20
	blockBytes  = 1 << 20
	maxBlocks   = 64
)

// Size is that of the file.
func (r *Reader) Size() (int64, error) {
	if r.f.size < 0 {
		return 0, errors.New("the server does not say how large the file is: download it, and name it here")
	}
	return r.f.size, nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for failures := 0; ; {
		if r.f.size >= 0 && r.pos >= r.f.size {
			return 0, io.EOF
		}
		if r.body == nil {
			if err := r.begin(); err != nil {
				return 0, err
			}
		}
		n, err := r.some(p)
		r.pos += int64(n)
		if err == io.EOF && r.end >= 0 && r.pos < r.end || err == io.EOF && r.f.size >= 0 && r.end < 0 && r.pos < r.f.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			r.drop()
		}
		switch {
		case n > 0:
			return n, nil
		case err == io.EOF && r.f.size < 0 && r.end < 0:
			return 0, io.EOF
		case err == io.EOF || err == nil: // of a range
		case r.ctx.Err() != nil:
			return 0, r.ctx.Err()
		default: // the connection was cut
			if failures++; failures >= tries {
				return 0, withoutURL(err)
			}
			if failures == 1 { // it went well until now
				continue
			}
			select {
			case <-time.After(min(firstWait<<failures, maxPause)):
			case <-r.ctx.Done():
				return 0, r.ctx.Err()
			}
		}
	}
}

// some reads from the body, and gives up where nothing comes.
func (r *Reader) some(p []byte) (int, error) {
	stalled := time.AfterFunc(patience, r.cancel)
	defer stalled.Stop()
	return r.body.Read(p)
}

// begin asks for the range at pos.
func (r *Reader) begin() error {
	r.window = min(max(2*r.window, firstWindow), maxWindow)
	to := r.pos + r.window - 1
	if r.f.size >= 0 {
		to = min(to, r.f.size-1)
	} else {
		to = -1
	}
	res, cancel, err := r.f.get(r.ctx, r.pos, to) //nolint:bodyclose // Close closes it
	if err != nil {
		return err
	}
	r.body, r.cancel, r.end = res.Body, cancel, -1
	if res.StatusCode == http.StatusPartialContent && to >= 0 {
		r.end = to + 1
	}
	return nil
}

// get asks for a range, and makes sure that it is one of this file. The body begins at from;
// it may go on to the end of the file.
func (f *File) get(ctx context.Context, from, to int64) (*http.Response, context.CancelFunc, error) {
	var cancel context.CancelFunc
	res, err := f.retry(ctx, cmp.Or(f.tries, tries), func() (*http.Response, error) {
		var one context.Context
		one, cancel = context.WithCancel(ctx)
		stalled := time.AfterFunc(patience, cancel)
		defer stalled.Stop()
		res, err := f.send(one, http.MethodGet, from, to)
		if err != nil {
			cancel()
		}
		return res, err
	})
	if err != nil {
		return nil, nil, err
	}
	if err = f.same(res); err == nil && res.StatusCode == http.StatusOK && from > 0 { // it has no ranges
		_, err = io.CopyN(io.Discard, res.Body, from)
	}
	if err == nil && res.StatusCode == http.StatusPartialContent && !strings.HasPrefix(res.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)) {
		err = fmt.Errorf("the server was asked for the bytes from %d on, and gave %q", from, res.Header.Get("Content-Range"))
	}
	if err != nil {
		res.Body.Close()
		cancel()
		return nil, nil, withoutURL(err)
	}
	return res, cancel, nil
}

// same makes sure that an answer is of the file as it was found.
func (f *File) same(res *http.Response) error {
	if size := sizeOf(res); f.size >= 0 && size >= 0 && size != f.size {
		return &ChangedError{fmt.Sprintf("%d bytes long", f.size), fmt.Sprintf("%d", size)}
	}
	if is := versionOf(res.Header); !f.pinned && f.version != "" && is != "" && strings.TrimPrefix(is, "W/") != strings.TrimPrefix(f.version, "W/") {
		return &ChangedError{f.version, is}
	}
	return nil
}

// drop lets go of the body.
func (r *Reader) drop() {
	if r.body != nil {
		r.body.Close()
		r.cancel()
		r.body = nil
	}
}

// Seek implements io.Seeker. It asks for nothing.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		size, err := r.Size()
		if err != nil {
			return 0, err
		}
		offset += size
	}
	if offset < 0 {
		return 0, errors.New("a place before the beginning")
	}
	if offset != r.pos {
		r.drop()
	}
	r.pos = offset
	return offset, nil
}

// ReadAt implements io.ReaderAt. It keeps the 64 blocks of 1 MiB that were used last.
func (r *Reader) ReadAt(p []byte, at int64) (n int, err error) {
	size, err := r.Size()
	if err != nil {
		return 0, err
	}
	for n < len(p) && at < size {
		b, err := r.block(at/blockBytes, size)
		if err != nil {
			return n, err
		}
		k := copy(p[n:], b[at%blockBytes:])
		n += k
		at += int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// block returns the n-th block of the file.
func (r *Reader) block(n, size int64) ([]byte, error) {
	for i := len(r.blocks) - 1; i >= 0; i-- {
		if b := r.blocks[i]; b.n == n {
			copy(r.blocks[i:], r.blocks[i+1:])
			r.blocks[len(r.blocks)-1] = b
			return b.b, nil
		}
	}
	in := &Reader{f: r.f, ctx: r.ctx, pos: n * blockBytes, window: blockBytes / 2}
	defer in.drop()
	b := make([]byte, min(blockBytes, size-n*blockBytes))
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, err
	}
	if len(r.blocks) == maxBlocks {
		copy(r.blocks, r.blocks[1:])
		r.blocks = r.blocks[:maxBlocks-1]
	}
	r.blocks = append(r.blocks, block{n, b})
	return b, nil
}

// Close implements io.Closer.
func (r *Reader) Close() error {
	r.drop()
	return nil
}
