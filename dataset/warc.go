package dataset

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/net/html/charset"
)

// warcReader reads the documents of a web archive (WARC 1.0 and 1.1, ISO 28500):
// the texts of a WET file ("conversion") and the pages and texts of a WARC file
// ("response", "resource"). Other records are not rows, and neither are responses
// that are no text. A record that is damaged is malformed, and reading goes on at
// the next line that begins one; so is the last one of a file that is cut in it.
type warcReader struct {
	r      *bufio.Reader
	b      *content
	offset int64 // bytes before the place
	n      int64 // records before it, documents or not
	cut    bool  // the file ended within a record
	max    int
}

func newWARC(b *content) *warcReader {
	return &warcReader{r: bufio.NewReaderSize(b, bufferBytes), b: b, max: maxRecord}
}

func (r *warcReader) place() (int64, int64) { return r.offset, r.n }
func (r *warcReader) Close() error          { return r.b.Close() }

func (r *warcReader) seek(offset, n int64) (err error) {
	r.offset, err = r.b.forward(offset)
	if err != nil && r.offset != offset-1 {
		return err
	}
	r.cut = err != nil // ends has been told of it
	r.r.Reset(r.b)
	r.offset, r.n = offset, n
	return nil
}

func (r *warcReader) pass() error {
	_, err := r.document(false)
	return err
}

func (r *warcReader) next() (record, error) { return r.document(true) }

// document reads the next record that is a row; what it holds only with want.
func (r *warcReader) document(want bool) (record, error) {
	for {
		head, bad, err := r.header()
		if err != nil {
			return record{}, err
		}
		if bad != nil {
			return *bad, nil
		}
		row, err := r.content(head, want)
		if err != nil {
			return record{}, err
		}
		if row != nil {
			return *row, nil
		}
	}
}

// warcHead is the header of a record.
type warcHead struct {
	text   []byte // as it stands
	fields textproto.MIMEHeader
	length int64
}

func (h *warcHead) get(key string) string { return strings.Trim(h.fields.Get(key), "<> ") }

// maxWARCHead is the longest header of a record.
const maxWARCHead = 1 << 20

const warcMark = "WARC/"

// header reads the header of the next record, or the record that is bad in its place.
func (r *warcReader) header() (*warcHead, *record, error) {
	if r.cut {
		return nil, nil, io.EOF
	}
	for {
		c, err := r.r.Peek(1)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, r.ends(nil, "the file is cut short here"), nil
		} else if err != nil {
			return nil, nil, err
		}
		if !isSpace(c[0]) {
			break
		}
		r.skip(1)
	}
	if mark, _ := r.r.Peek(len(warcMark)); string(mark) != warcMark {
		return r.resync(nil, fmt.Errorf("not a record: it does not begin with %s", warcMark))
	}
	h := &warcHead{}
	for {
		line, err := r.r.ReadSlice('\n')
		h.text = append(h.text, line...)
		r.offset += int64(len(line))
		switch {
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
			return nil, r.ends(h.text, "the file is cut short in the header of this record"), nil
		case errors.Is(err, bufio.ErrBufferFull) || len(h.text) > maxWARCHead:
			return r.resync(h.text, fmt.Errorf("the header of the record is longer than %d MiB", maxWARCHead>>20))
		case err != nil:
			return nil, nil, err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	_, fields, _ := bytes.Cut(h.text, []byte("\n"))
	parsed, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(fields))).ReadMIMEHeader()
	if err != nil {
		return r.resync(h.text, fmt.Errorf("the header of the record: %w", err))
	}
	h.fields = parsed
	if h.length, err = strconv.ParseInt(h.get("Content-Length"), 10, 64); err != nil || h.length < 0 {
		return r.resync(h.text, fmt.Errorf("the record has the Content-Length %q", h.get("Content-Length")))
	}
	return h, nil, nil
}

// skip goes over n bytes that were peeked at.
func (r *warcReader) skip(n int) {
	n, _ = r.r.Discard(n)
	r.offset += int64(n)
}

// ends is the record in which the file ends. In a compressed one the place behind it is
// behind the end, so that it is known there.
func (r *warcReader) ends(text []byte, what string) *record {
	r.ended()
	r.n++
	return &record{line: r.n, text: text, err: errors.New(what)}
}

func (r *warcReader) ended() {
	if r.cut = true; r.b.seek == nil {
		r.offset++
	}
}

// resync goes on to the next line that begins a record, and returns what stands before it
// as a record that is bad.
func (r *warcReader) resync(text []byte, why error) (*warcHead, *record, error) {
	begins := len(text) > 0
	for {
		if mark, _ := r.r.Peek(len(warcMark)); begins && string(mark) == warcMark {
			break
		}
		line, err := r.r.ReadSlice('\n')
		r.offset += int64(len(line))
		if room := 2*shownBytes - len(text); room > 0 {
			text = append(text, line[:min(room, len(line))]...)
		}
		begins = err == nil
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			r.ended()
			break
		} else if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, nil, err
		}
	}
	r.n++
	return nil, &record{line: r.n, text: text, err: why}, nil
}

// content reads over what a record holds, and makes a row of it; nil where it is none.
func (r *warcReader) content(h *warcHead, want bool) (*record, error) {
	d := document{kind: h.get("WARC-Type"), url: h.get("WARC-Target-URI"), date: h.get("WARC-Date")}
	d.declare(h.get("Content-Type"))
	isRow := d.kind == "conversion" || d.kind == "response" || d.kind == "resource" && isTextMedia(d.media)
	keep := int64(0)
	switch {
	case !isRow:
	case want:
		keep = min(h.length, int64(r.max))
	case d.kind == "response": // whether it is a text, its own header says
		keep = min(h.length, maxWARCHead)
	}
	buf := bytes.NewBuffer(make([]byte, 0, min(keep, 1<<20)))
	n, err := io.CopyN(buf, r.r, keep)
	if err == nil {
		var more int64
		more, err = io.CopyN(io.Discard, r.r, h.length-keep)
		n += more
	}
	r.offset += n
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.ends(append(h.text, buf.Bytes()...), fmt.Sprintf("the file is cut short in this record: it has %d of %d bytes", n, h.length)), nil
	} else if err != nil {
		return nil, err
	}
	r.n++
	if !isRow {
		return nil, nil
	}
	rec := &record{line: r.n, text: buf.Bytes()}
	d.body, d.language = rec.text, h.get("WARC-Identified-Content-Language")
	if d.kind == "response" {
		isRow, rec.err = d.response(h, want)
	}
	switch {
	case !isRow:
		return nil, nil
	case !want || rec.err != nil:
	case h.length > int64(r.max):
		rec.err = fmt.Errorf("the record is larger than %d MiB", r.max>>20)
	default:
		if row, err := d.row(); err != nil {
			rec.err = err
		} else {
			rec.text = row
		}
	}
	return rec, nil
}

// document is what a record holds that is a row.
type document struct {
	kind, url, date, language string
	contentType, media        string
	status                    int
	body                      []byte
}

// declare takes a Content-Type.
func (d *document) declare(contentType string) {
	d.contentType = contentType
	d.media, _, _ = mime.ParseMediaType(contentType)
}

func isTextMedia(media string) bool {
	return media == "text/plain" || media == "text/markdown" || isPageMedia(media)
}

func isPageMedia(media string) bool { return media == "text/html" || media == "application/xhtml+xml" }

// response takes apart the response of HTTP that is the body, which is not decoded
// without want, and reports whether it is a text.
func (d *document) response(h *warcHead, want bool) (isRow bool, err error) {
	whole := d.body
	if !bytes.HasPrefix(whole, []byte("HTTP/")) {
		return false, nil
	}
	from := io.Reader(bytes.NewReader(whole))
	if version, rest, _ := bytes.Cut(whole, []byte(" ")); len(version) == len("HTTP/2") { // of HTTP/2 and 3 there is one number, and net/http wants two
		from = io.MultiReader(bytes.NewReader(version), strings.NewReader(".0 "), bytes.NewReader(rest))
	}
	res, err := http.ReadResponse(bufio.NewReader(from), nil)
	if err != nil {
		return true, fmt.Errorf("the response cannot be read: %w", err)
	}
	defer res.Body.Close()
	if d.declare(res.Header.Get("Content-Type")); d.media == "" {
		d.declare(h.get("WARC-Identified-Payload-Type"))
	}
	if d.status = res.StatusCode; !isTextMedia(d.media) || !want {
		return isTextMedia(d.media), nil
	}
	if d.language == "" {
		d.language = res.Header.Get("Content-Language")
	}
	if d.body, err = decoded(res, whole); err != nil {
		return true, fmt.Errorf("the body of the response cannot be read: %w", err)
	}
	return true, nil
}

// row is the JSON of the document.
func (d *document) row() ([]byte, error) {
	if d.kind == "conversion" {
		if !utf8.Valid(d.body) {
			return nil, notUTF8(d.body, 0)
		}
		return textObject("url", d.url, "date", d.date, "language", d.language, "text", string(d.body)), nil
	}
	var p page
	var err error
	if isPageMedia(d.media) {
		p, err = readPage(d.body, d.contentType, d.url)
	} else {
		p.text, err = readText(d.body, d.contentType)
	}
	if err != nil {
		return nil, err
	}
	row := textObject("url", d.url, "date", d.date, "type", d.media, "title", p.title, "language", cmp.Or(d.language, p.language), "text", p.text)
	if d.kind == "response" {
		row = append(row[:len(row)-1], `,"status":`...)
		row = append(strconv.AppendInt(row, int64(d.status), 10), '}')
	}
	return row, nil
}

// readText reads a text in the charset that contentType or its bytes name.
func readText(body []byte, contentType string) (string, error) {
	r, err := charset.NewReader(bytes.NewReader(body), contentType)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), err
}

// decoded is the body of a response. Archives tell of codings that their writer
// has undone already: what is not chunked, or compressed, as it says, is taken as it is.
func decoded(res *http.Response, whole []byte) ([]byte, error) {
	body, err := io.ReadAll(res.Body) // what is shorter than it says has a beginning
	if err != nil && len(res.TransferEncoding) > 0 && len(body) == 0 {
		_, body, _ = bytes.Cut(whole, []byte("\r\n\r\n"))
	}
	var r io.Reader
	switch strings.ToLower(res.Header.Get("Content-Encoding")) {
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(body))
	case "br":
		r = brotli.NewReader(bytes.NewReader(body))
	default:
		return body, nil
	}
	var plain []byte
	if r != nil && err == nil {
		plain, err = io.ReadAll(io.LimitReader(r, maxRecord+1))
	}
	switch {
	case len(plain) > maxRecord:
		return nil, fmt.Errorf("it is larger than %d MiB", maxRecord>>20)
	case len(plain) > 0 || err == nil:
		return plain, nil
	case utf8.Valid(body):
		return body, nil
	}
	return nil, err
}
