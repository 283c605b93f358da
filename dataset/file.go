package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"matrix"
	"matrix/internal/remote"
	"matrix/internal/textfile"
)

// reader reads the records of one file in order.
type reader interface {
	// next reads a record; io.EOF after the last. Another error means that
	// the file cannot be read on.
	next() (record, error)
	// pass reads over what next would return, and does not look into it.
	pass() error
	// place says how far reading has come: bytes (uncompressed) and lines.
	place() (offset, lines int64)
	Close() error
}

// record is one row as it stands in a file.
type record struct {
	line int64        // where it begins, from 1
	text []byte       // a JSON object, the caller's to keep; with err the text as it is, until the next call
	item matrix.Value // text, where it was parsed on the way; else absent
	err  error        // it is malformed: the next record can still be read
}

// counter is a reader that knows the number of its records.
type counter interface{ count() int64 }

type fileFormat int

const (
	unknown fileFormat = iota
	jsonLines
	csvRecords
	parquetRows
	jsonArray
	textDocument
	pageDocument
	warcRecords
)

type compression int

const (
	plain compression = iota
	gzipped
	zstded
)

// file is one file of a dataset.
type file struct {
	path     string
	ext      string
	given    fileFormat   // unknown, or what it is by the config
	far      *remote.File // where it is on another machine; nil for one of this one
	name     string       // in addresses and fingerprints: the path below the folder that all files share
	format   fileFormat
	compress compression
	cr       bool // lines of JSON end in carriage returns
	grows    bool // only whole lines count, until it has ended: see Growing
}

func (f *file) address(line int64) string { return f.name + ":" + strconv.FormatInt(line, 10) }

// kinds is the list for messages.
const kinds = ".jsonl, .ndjson, .json, .csv, .txt, .md, .html, .warc and .wet (each also .gz or .zst) and .parquet"

// byName sets format and compression from the file's name, and ext: its ending but for that
// of the compression, in lower case.
func (f *file) byName() {
	name := strings.ToLower(filepath.Base(f.path))
	for ext, c := range map[string]compression{".gz": gzipped, ".gzip": gzipped, ".zst": zstded, ".zstd": zstded} {
		if rest, ok := strings.CutSuffix(name, ext); ok {
			name, f.compress = rest, c
		}
	}
	switch f.ext = filepath.Ext(name); f.ext {
	case ".jsonl", ".ndjson", ".json":
		f.format = jsonLines
	case ".csv":
		f.format = csvRecords
	case ".txt", ".md", ".markdown":
		f.format = textDocument
	case ".html", ".htm", ".xhtml":
		f.format = pageDocument
	case ".warc", ".wet":
		f.format = warcRecords
	case ".parquet":
		f.format = parquetRows
	}
}

// check decides the format, by what the file holds where that is plain and else
// by its name, and finds what makes the file unreadable from the first byte on.
func (f *file) check() error {
	f.byName()
	if f.given != unknown {
		f.format = f.given
	}
	named := f.compress
	head, err := f.head(plain)
	if err != nil {
		return err
	}
	switch {
	case len(head) == 0 && (named != plain || f.format == parquetRows):
		return fmt.Errorf("%s has no bytes: the file is not whole; restore it and run again", f.path)
	case bytes.HasPrefix(head, []byte(textfile.Parquet)):
		f.format, f.compress = parquetRows, plain
	case bytes.HasPrefix(head, []byte(textfile.Gzip)):
		f.compress = gzipped
	case bytes.HasPrefix(head, []byte(textfile.Zstd)), len(head) > 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18": // a frame to be skipped
		f.compress = zstded
	default:
		f.compress = plain
	}
	if f.compress != plain {
		if head, err = f.head(f.compress); err != nil {
			return err
		}
		if bytes.HasPrefix(head, []byte(textfile.Parquet)) || f.format == parquetRows {
			return fmt.Errorf("%s: a Parquet file is compressed inside: decompress the file itself", f.path)
		}
	}
	if f.format != parquetRows || !bytes.HasPrefix(head, []byte(textfile.Parquet)) {
		foreign := textfile.Foreign
		if f.format == textDocument || f.format == pageDocument {
			foreign = textfile.Binary
		}
		if err := foreign(head); err != nil {
			return fmt.Errorf("%s %w", f.path, err)
		}
		if named != plain && f.compress == plain && !isPlain(head) {
			return fmt.Errorf("%s is neither text nor compressed as its name says: fetch it again", f.path)
		}
	}
	if err := f.byContent(head); err != nil {
		return err
	}
	switch f.format {
	case jsonLines:
		f.cr = bytes.IndexByte(head, '\r') >= 0 && bytes.IndexByte(head, '\n') < 0
		return nil
	case csvRecords, parquetRows:
		r, err := f.open(context.Background(), matrix.Position{})
		if err != nil {
			return err
		}
		return r.Close()
	}
	return nil
}

// byContent sets the format where the first bytes tell it, and says where nothing does.
func (f *file) byContent(head []byte) error {
	text := bytes.TrimLeft(bytes.TrimPrefix(head, bom), " \t\r\n")
	switch {
	case f.given != unknown && f.given != warcRecords:
	case bytes.HasPrefix(head, []byte(warcMark+"1.")) && f.format != textDocument:
		f.format = warcRecords
	case f.format == warcRecords && len(head) > 0:
		return fmt.Errorf("%s is no web archive: it does not begin with %s; fetch it again, or name it as what it is", f.path, warcMark)
	case f.ext == ".json" && len(text) > 0 && text[0] == '[':
		f.format = jsonArray
	case f.format == unknown && f.name == stdinName && len(head) == 0, // no rows came
		f.format == unknown && len(text) > 0 && text[0] == '{', f.ext == ".txt" && beginsWithObject(text):
		f.format = jsonLines
	case (f.ext == ".tsv" || f.ext == ".tab") && bytes.IndexByte(text, '\t') >= 0:
		return fmt.Errorf("%s: %w", f.path, &separatorError{"\t"})
	}
	return f.named()
}

// beginsWithObject reports whether the first line of a text is a JSON object, or begins as one
// and is longer than what is there.
func beginsWithObject(text []byte) bool {
	line, _, whole := bytes.Cut(text, []byte("\n"))
	return len(line) > 0 && line[0] == '{' && (json.Valid(line) || !whole && len(line) > textfile.HeadBytes/2)
}

// named returns an error where the name does not say the format.
func (f *file) named() error {
	if f.format == unknown {
		return fmt.Errorf("%s: the name does not say what kind of file it is; rename it to end in one of %s, or say it by format", f.path, kinds)
	}
	return nil
}

// isPlain reports whether head is that of a text: UTF-8 without control
// characters, but for one that is cut at its end.
func isPlain(head []byte) bool {
	for cut := range min(utf8.UTFMax, len(head)+1) {
		if utf8.Valid(head[:len(head)-cut]) {
			return bytes.IndexFunc(head, func(c rune) bool { return c < ' ' && c != '\t' && c != '\n' && c != '\r' }) < 0
		}
	}
	return false
}

// anyRow makes sure that there is a row, readable or not, unless the files have
// no bytes.
func anyRow(files []file) error {
	var some *file
	for i := range files {
		f := &files[i]
		if empty, err := f.empty(); err != nil {
			return err
		} else if empty {
			continue
		}
		n, err := f.count(context.Background(), 1)
		if n > 0 || err != nil {
			return err
		}
		some = f
	}
	if some == nil {
		return nil
	}
	what := "no line in it holds anything"
	switch some.format {
	case csvRecords:
		what = "there is no record after the header"
	case parquetRows:
		what = "it has columns alone"
	case jsonArray:
		what = "the array is empty"
	case warcRecords:
		what = "none of its records is a text or a page"
	}
	if len(files) > 1 {
		return fmt.Errorf("there is no row in any of the %d files, such as %s: %s", len(files), some.path, what)
	}
	return fmt.Errorf("there is no row in %s: %s", some.path, what)
}

// head reads the first bytes.
func (f *file) head(c compression) ([]byte, error) {
	g := *f
	g.compress = c
	b, err := g.bytes(context.Background(), -1)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	head := make([]byte, textfile.HeadBytes)
	n, err := io.ReadFull(b, head) // what is wrong further on, reading rows will tell
	if f.far != nil && n == 0 && err != io.EOF {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return head[:n], nil
}

// open starts reading at pos.
func (f *file) open(ctx context.Context, pos matrix.Position) (reader, error) {
	if f.format == parquetRows {
		return openParquet(ctx, f, pos.Line)
	}
	end, err := f.end()
	if err != nil {
		return nil, err
	}
	b, err := f.bytes(ctx, end)
	if err != nil {
		return nil, err
	}
	if f.compress == plain && pos.Offset > 0 {
		if size, err := b.file.Size(); err == nil && size < pos.Offset {
			b.Close()
			return nil, f.shrunk(size, pos)
		}
	}
	r, err := f.reader(b, pos)
	if err == nil {
		return r, nil
	}
	b.Close()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == io.EOF:
		size, _ := r.place()
		return nil, f.shrunk(size, pos)
	}
	return nil, fmt.Errorf("%s: %w", f.path, damaged(err))
}

// reader reads the records of a file's content from pos on. The error is io.EOF where it
// ends before that, at the reader's place.
func (f *file) reader(b *content, pos matrix.Position) (r reader, err error) {
	var seek func() error
	switch f.format {
	case jsonArray:
		a := newArray(b)
		r, seek = a, func() error { return a.seek(b, pos.Offset, pos.Line) }
	case textDocument, pageDocument:
		d := newDocument(b, f)
		r, seek = d, func() error { return d.seek(pos.Offset, pos.Line) }
	case warcRecords:
		w := newWARC(b)
		r, seek = w, func() error { return w.seek(pos.Offset, pos.Line) }
	default:
		lines := newLines(b)
		seek = func() error { return lines.seek(pos.Offset, pos.Line) }
		if f.format == csvRecords {
			r, err = newCSV(lines, b)
		} else {
			lines.cr = f.cr
			r = &jsonReader{lines: lines, c: b}
		}
	}
	if err == nil && pos.Offset > 0 {
		err = seek()
	}
	return r, err
}

func (f *file) shrunk(size int64, pos matrix.Position) error {
	return fmt.Errorf("%s has %d bytes, and %d were read before: the file has changed; restore the one the run began with, or start a new run", f.path, size, pos.Offset)
}

func (f *file) count(ctx context.Context, most int64) (int64, error) {
	r, err := f.open(ctx, matrix.Position{})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if c, ok := r.(counter); ok {
		return c.count(), nil
	}
	var n int64
	for n < most {
		if err := r.pass(); err == io.EOF {
			break
		} else if err != nil {
			return 0, f.failed(ctx, r, err)
		}
		n++
	}
	return n, nil
}

// failed says that reading broke off, and where.
func (f *file) failed(ctx context.Context, r reader, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	offset, lines := r.place()
	if f.format == parquetRows {
		return fmt.Errorf("%s: reading broke off after row %d: %w", f.path, lines, damaged(err))
	}
	return fmt.Errorf("%s: reading broke off after line %d, byte %d uncompressed: %w", f.path, lines, offset, damaged(err))
}

// damaged explains what decoders say of a file that is cut short.
func damaged(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the file is cut short (%w): restore the whole file and run again", err)
	}
	return err
}

// content is the uncompressed bytes of a file.
type content struct {
	io.Reader
	file blob
	seek io.Seeker // in the bytes; nil where they are compressed
	stop func()    // lets go of what decompresses
}

// Seek moves to an offset where the file is plain, and fails elsewhere.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	if c.seek == nil {
		return 0, errors.ErrUnsupported
	}
	return c.seek.Seek(offset, whence)
}

// forward moves from the beginning to an offset, and says where it came to; the error is
// io.EOF where there is less.
func (c *content) forward(offset int64) (int64, error) {
	if c.seek != nil {
		return c.seek.Seek(offset, io.SeekStart)
	}
	return io.CopyN(io.Discard, c, offset)
}

func (c *content) Close() error {
	c.stop()
	return c.file.Close()
}

// maxWindow is the largest zstd window that is read: what zstd --long=31 writes.
const maxWindow = 1 << 31

// bytes opens the content of a file, of which only the first end bytes count, if
// end is not negative.
func (f *file) bytes(ctx context.Context, end int64) (*content, error) {
	file, err := f.blob(ctx)
	if err != nil {
		return nil, err
	}
	var whole io.ReadSeeker = file
	if end >= 0 {
		whole = io.NewSectionReader(file, 0, end)
	}
	in := &ctxReader{ctx: ctx, r: whole}
	r, stop, err := uncompressed(in, f.compress)
	if err == io.EOF { // of no bytes at all
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", f.path, damaged(err))
	}
	c := &content{Reader: r, file: file, stop: stop}
	if f.compress == plain {
		c.seek = whole
	}
	return c, nil
}

// blob is the bytes of a file as they are stored, here or on another machine.
type blob interface {
	io.ReadSeekCloser
	io.ReaderAt
	Size() (int64, error)
}

type localBlob struct{ *os.File }

func (b localBlob) Size() (int64, error) {
	info, err := b.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// blob opens the file.
func (f *file) blob(ctx context.Context) (blob, error) {
	if f.far != nil {
		return f.far.Open(ctx), nil
	}
	file, err := textfile.Open(f.path)
	if err != nil {
		return nil, openError(err)
	}
	return localBlob{file}, nil
}

// empty reports whether the file has no bytes.
func (f *file) empty() (bool, error) {
	if f.far != nil {
		return f.far.Size() == 0, nil
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return false, openError(err)
	}
	return info.Size() == 0, nil
}

// openError leaves out what the system call was.
func openError(err error) error {
	var p *fs.PathError
	if !errors.As(err, &p) {
		return err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: no permission to read it (%w)", p.Path, p.Err)
	}
	return fmt.Errorf("%s: %w", p.Path, p.Err)
}

// ctxReader is a reader that ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (u *ctxReader) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
