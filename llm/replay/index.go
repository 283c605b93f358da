package replay

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/xxh3"

	"matrix/internal/textfile"
	"matrix/llm"
)

// maxLine bounds a line of a replay file.
const maxLine = 64 << 20

// mask says which coordinates of an Ask a line has.
type mask uint8

const (
	hasRole mask = 1 << iota
	hasTrial
	hasN
)

// masks is a set of mask values.
type masks [8]bool

// has reports whether lines with any of the coordinates are there.
func (s *masks) has(bit mask) bool {
	for m, there := range s {
		if there && mask(m)&bit != 0 {
			return true
		}
	}
	return false
}

// entry is one line of the file. Hashes of 128 bits do not collide, so the
// line need not be read to know that it is the right one.
type entry struct {
	hash   xxh3.Uint128 // of the key and of the coordinates that the line has
	offset int64
	size   int64
}

// index finds lines by key. Entries are ordered by hash, then by place.
type index struct {
	path    string
	text    string // field of the reply
	file    *os.File
	entries []entry
	masks   masks
}

// openIndex reads a file. Compressed ones are unpacked to a temporary file
// without a name.
func openIndex(path, key, text string) (*index, error) {
	f, err := textfile.Open(path)
	if err != nil {
		return nil, err
	}
	ix := &index{path: path, text: text, file: f}
	if err := ix.build(key); err != nil {
		ix.close()
		return nil, err
	}
	return ix, nil
}

func (ix *index) build(key string) error {
	var magic [4]byte // tells more than the name
	n, err := io.ReadFull(ix.file, magic[:])
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF { //nolint:errorlint // never wrapped
		return err
	}
	if _, err = ix.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var r io.Reader = ix.file
	switch {
	case bytes.HasPrefix(magic[:n], []byte(textfile.Gzip)):
		r, err = gzip.NewReader(bufio.NewReader(ix.file))
	case bytes.HasPrefix(magic[:n], []byte(textfile.Zstd)):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(ix.file, zstd.WithDecoderConcurrency(1)); err == nil {
			defer z.Close()
		}
		r = z
	}
	if err != nil {
		return fmt.Errorf("%s: %w", ix.path, err)
	}
	if r != io.Reader(ix.file) {
		defer ix.file.Close()
		tmp, err := os.CreateTemp("", "matrix-replay-*.jsonl")
		if err != nil {
			return err
		}
		os.Remove(tmp.Name()) // it lives as long as it is open
		ix.file, r = tmp, io.TeeReader(r, tmp)
	}
	in := bufio.NewReaderSize(r, 256<<10)
	head, _ := in.Peek(textfile.HeadBytes) // an error stands behind what was read
	if err := textfile.Foreign(head); err != nil {
		return fmt.Errorf("%s %w", ix.path, err)
	}
	var offset int64
	var buf []byte
	for number := 1; ; number++ {
		raw, err := readLine(in, buf)
		buf = raw[:0]
		torn := errors.Is(err, io.EOF)
		if err != nil && !torn {
			return fmt.Errorf("%s:%d: %w", ix.path, number, err)
		}
		e, perr := ix.parse(raw, key)
		if perr != nil && !(torn && !json.Valid(raw)) {
			return fmt.Errorf("%s:%d: %w", ix.path, number, perr)
		}
		if perr == nil && e.size > 0 {
			e.offset = offset
			ix.entries = append(ix.entries, e)
		}
		offset += int64(len(raw))
		if torn {
			break
		}
	}
	if len(ix.entries) == 0 {
		return fmt.Errorf("%s holds no replies", ix.path)
	}
	slices.SortFunc(ix.entries, func(a, b entry) int {
		return cmp.Or(compare(a.hash, b.hash), cmp.Compare(a.offset, b.offset))
	})
	ix.entries = slices.Clip(ix.entries)
	return nil
}

// readLine reads a line with its line break into buf. The error is io.EOF
// when the line has none.
func readLine(in *bufio.Reader, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for {
		part, err := in.ReadSlice('\n')
		buf = append(buf, part...)
		if len(buf) > maxLine {
			return buf, fmt.Errorf("the line is longer than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return buf, err
		}
	}
}

var bom = []byte("\xEF\xBB\xBF")

// parse makes the entry of a line. Its size is 0 where the line is blank.
func (ix *index) parse(raw []byte, key string) (entry, error) {
	text := bytes.TrimSpace(bytes.TrimPrefix(raw, bom))
	if len(text) == 0 {
		return entry{}, nil
	}
	var row map[string]json.RawMessage
	if err := json.Unmarshal(text, &row); err != nil {
		return entry{}, fmt.Errorf("not a JSON object: %w", err)
	}
	k, ok := row[key]
	if !ok {
		return entry{}, fmt.Errorf("has no field %q", key)
	}
	name, err := canonical(key, k)
	if err != nil {
		return entry{}, err
	}
	t, ok := row[ix.text]
	if !ok {
		return entry{}, fmt.Errorf("has no field %q", ix.text)
	}
	var reply string
	if json.Unmarshal(t, &reply) != nil || t[0] != '"' {
		return entry{}, fmt.Errorf("field %q is %s, want a text", ix.text, llm.Shorten(string(t), 40))
	}
	var (
		a llm.Ask
		m mask
	)
	take := func(field string, bit mask, into any) error {
		v, ok := row[field]
		if !ok || field == key || field == ix.text {
			return nil
		}
		if err := json.Unmarshal(v, into); err != nil {
			return fmt.Errorf("field %q is %s, want %T as written by record", field, llm.Shorten(string(v), 40), into)
		}
		m |= bit
		return nil
	}
	if err := errors.Join(take("role", hasRole, &a.Role), take("trial", hasTrial, &a.Trial), take("n", hasN, &a.Nth), take("reask", 0, &a.Reask)); err != nil {
		return entry{}, err
	}
	ix.masks[m] = true
	return entry{hash: hash(name, m, &a), size: int64(len(raw))}, nil
}

// hash names a key and those coordinates of an ask that are in m.
func hash(key string, m mask, a *llm.Ask) xxh3.Uint128 {
	b := make([]byte, 0, 256)
	b = append(b, byte(m))
	b = strconv.AppendQuote(b, key)
	if m&hasRole != 0 {
		b = strconv.AppendQuote(b, a.Role)
	}
	if m&hasTrial != 0 {
		b = strconv.AppendInt(append(b, 't'), int64(a.Trial), 10)
	}
	if m&hasN != 0 {
		b = strconv.AppendInt(append(b, 'n'), int64(a.Nth), 10)
		b = strconv.AppendInt(append(b, 'r'), int64(a.Reask), 10)
	}
	return xxh3.Hash128(b)
}

func compare(a, b xxh3.Uint128) int {
	return cmp.Or(cmp.Compare(a.Hi, b.Hi), cmp.Compare(a.Lo, b.Lo))
}

// find returns the lines that answer an ask for n replies; have says how many
// lines there are for the key in order, where they do not suffice. Lines that
// have more coordinates go first.
func (ix *index) find(key string, a *llm.Ask, n int) (found []entry, have int) {
	for m := mask(len(ix.masks)) - 1; ; m-- {
		if ix.masks[m] {
			group := ix.group(hash(key, m, a))
			switch first := (a.Nth + a.Reask) * n; {
			case len(group) == 0:
			case m&hasN != 0:
				return group[len(group)-1:], 0
			case first >= 0 && first+n <= len(group):
				return group[first : first+n], 0
			default:
				have = max(have, len(group))
			}
		}
		if m == 0 {
			return nil, have
		}
	}
}

func (ix *index) group(h xxh3.Uint128) []entry {
	from := sort.Search(len(ix.entries), func(i int) bool { return compare(ix.entries[i].hash, h) >= 0 })
	to := from
	for to < len(ix.entries) && ix.entries[to].hash == h {
		to++
	}
	return ix.entries[from:to]
}

// read reads a line back.
func (ix *index) read(e entry) (*line, error) {
	raw := make([]byte, e.size)
	if _, err := ix.file.ReadAt(raw, e.offset); err != nil {
		return nil, fmt.Errorf("%s: %w", ix.path, err)
	}
	raw = bytes.TrimPrefix(raw, bom)
	var row map[string]json.RawMessage
	if err := json.Unmarshal(raw, &row); err != nil {
		return nil, fmt.Errorf("%s: %w", ix.path, err)
	}
	l := &line{}
	if err := json.Unmarshal(row[ix.text], &l.Text); err != nil {
		return nil, fmt.Errorf("%s: field %q: %w", ix.path, ix.text, err)
	}
	// What else Record writes is taken where it has the right form.
	for field, into := range map[string]any{
		"model": &l.Model, "revision": &l.Revision, "finish": &l.Finish, "usage": &l.Usage, "samples": &l.Samples,
		"reasoning": &l.Reasoning, "tool_calls": &l.ToolCalls, "logprobs": &l.Logprobs, "opaque": &l.Opaque, "vectors": &l.Vectors,
	} {
		if v, ok := row[field]; ok && field != ix.text {
			_ = json.Unmarshal(v, into)
		}
	}
	return l, nil
}

func (ix *index) close() error { return ix.file.Close() }
