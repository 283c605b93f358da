package llm

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Unpack makes the body of res be read as it was before it was compressed. We ask
// for no such thing, but some servers do it, or what is before them. What we
// cannot read is an error, and the body is closed; of a response that is an
// error itself, its body is empty then.
func Unpack(res *http.Response) error {
	kind := res.Header.Get("Content-Encoding")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "", "identity":
		return nil
	case "gzip", "x-gzip":
		if res.Body != http.NoBody {
			res.Body = &unpacked{body: res.Body}
		}
		return nil
	}
	res.Body.Close()
	res.Body = http.NoBody
	if res.StatusCode > 299 {
		return nil
	}
	return fmt.Errorf("the reply is compressed by %s, although nobody asked for that", Shorten(kind, 40))
}

// unpacked is a compressed body. Nothing is read of it before the first Read.
type unpacked struct {
	body io.ReadCloser
	gzip *gzip.Reader // nil: not begun
}

func (u *unpacked) Read(b []byte) (int, error) {
	if u.gzip == nil {
		r, err := gzip.NewReader(u.body)
		if err != nil {
			return 0, err // at the end of a body that is empty io.EOF
		}
		u.gzip = r
	}
	return u.gzip.Read(b)
}

func (u *unpacked) Close() error { return u.body.Close() }
