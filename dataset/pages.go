package dataset

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/encoding/thrift"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// A damage says that a Parquet file does not hold what its headers promise:
// nothing that follows in the file can be trusted.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func damagef(format string, args ...any) error { return damage{fmt.Errorf(format, args...)} }

var errShort = errors.New("the page ends before its last value")

// leaf reads one column of values, with their repetition and definition
// levels. It takes nothing on trust: a page must hold exactly as many bytes
// and at least as many values as its header says.
type leaf struct {
	name           string
	kind           format.Type
	width          int // bytes of a value; 0 where values have lengths of their own
	maxDef, maxRep int

	// Of the chunk being read.
	r     *bufio.Reader
	codec format.CompressionCodec
	left  int64 // values in pages not yet read
	dict  *values

	// Of the page being read.
	reps, defs []uint8 // nil where the highest level is 0
	n, i       int     // values, nulls included, and the next of them
	vals       values
	v          int // the next of vals

	rows int64 // begun in this chunk
}

// values are decoded values. Those of fixed width are little-endian.
type values struct {
	data    []byte
	width   int
	offsets []uint32 // of values without a fixed width: where each begins, and where the last ends
	index   []uint32 // places in dict
	dict    *values
}

func (v *values) at(i int) []byte {
	switch {
	case v.dict != nil:
		return v.dict.at(int(v.index[i]))
	case v.offsets != nil:
		return v.data[v.offsets[i]:v.offsets[i+1]]
	}
	return v.data[i*v.width : (i+1)*v.width]
}

// len is how many values there are.
func (v *values) len() int {
	switch {
	case v.dict != nil:
		return len(v.index)
	case v.offsets != nil:
		return len(v.offsets) - 1
	case v.width == 0:
		return 0
	}
	return len(v.data) / v.width
}

// open begins the column's chunk in a row group.
func (l *leaf) open(f io.ReaderAt, size int64, c *columnMeta) error {
	start := c.DataPageOffset
	if c.DictionaryPageOffset > 0 && c.DictionaryPageOffset < start {
		start = c.DictionaryPageOffset
	}
	if c.NumValues < 0 || c.NumValues > 0 && (start < 4 || start > size) {
		return damagef("column %q: its place in the file is wrong", l.name)
	}
	in := io.NewSectionReader(f, start, max(size-start, 0))
	if l.r == nil {
		l.r = bufio.NewReaderSize(in, 64<<10)
	} else {
		l.r.Reset(in)
	}
	l.codec, l.left, l.dict, l.rows = c.Codec, c.NumValues, nil, 0
	l.n, l.i = 0, 0
	return nil
}

// more reports whether there is another value in the chunk, null or not.
func (l *leaf) more() (bool, error) {
	var none int64
	return l.moreAfter(&none)
}

// moreAfter is more for a reader that passes over skip rows: it leaves out
// whole pages of them where their headers say how many they hold.
func (l *leaf) moreAfter(skip *int64) (bool, error) {
	for l.i == l.n {
		if l.left == 0 {
			return false, nil
		}
		if err := l.page(skip); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return false, damagef("column %q: %w", l.name, err)
		}
	}
	return true, nil
}

// rep is the repetition level of the next value; 0 where there is none.
func (l *leaf) rep() (int, error) {
	if ok, err := l.more(); err != nil || !ok || l.reps == nil {
		return 0, err
	}
	return int(l.reps[l.i]), nil
}

// def is the definition level of the next value.
func (l *leaf) def() (int, error) {
	switch ok, err := l.more(); {
	case err != nil:
		return 0, err
	case !ok:
		return 0, damagef("column %q ends before the other columns do", l.name)
	case l.defs == nil:
		return l.maxDef, nil
	}
	return int(l.defs[l.i]), nil
}

// take returns the next value; ok is false for one that is null or absent. The
// value is valid until the next call.
func (l *leaf) take() (v []byte, ok bool, err error) {
	def, err := l.def()
	if err != nil {
		return nil, false, err
	}
	if l.reps == nil || l.reps[l.i] == 0 {
		l.rows++
	}
	l.i++
	if def < l.maxDef {
		return nil, false, nil
	}
	l.v++
	return l.vals.at(l.v - 1), true, nil
}

// finish passes over the rest of row n, from 1.
func (l *leaf) finish(n int64) error {
	for {
		skip := n - 1 - l.rows
		switch ok, err := l.moreAfter(&skip); {
		case err != nil:
			return err
		case !ok && l.rows < n:
			return damagef("column %q ends before the other columns do", l.name)
		case !ok || l.rows >= n && (l.reps == nil || l.reps[l.i] == 0):
			return nil
		}
		if _, _, err := l.take(); err != nil {
			return err
		}
	}
}

// maxPage is the largest page that is read, compressed or not, and
// maxPageValues how many values it may have.
const (
	maxPage       = 1 << 30
	maxPageValues = 1 << 28
)

// page reads the next page of data, and what stands before it.
func (l *leaf) page(skip *int64) error {
	var protocol thrift.CompactProtocol
	h := new(format.PageHeader)
	if err := thrift.NewDecoder(protocol.NewReader(l.r)).Decode(h); err != nil {
		return err
	}
	if h.CompressedPageSize < 0 || h.UncompressedPageSize < 0 || h.CompressedPageSize > maxPage || h.UncompressedPageSize > maxPage {
		return fmt.Errorf("a page of %d bytes, %d uncompressed", h.CompressedPageSize, h.UncompressedPageSize)
	}
	v1, v2 := &h.DataPageHeader, &h.DataPageHeaderV2
	n, rows := int64(0), int64(-1) // where known
	switch h.Type {
	case format.DataPage:
		if !v1.Valid {
			return errors.New("a page without its header")
		}
		if n = int64(v1.V.NumValues); l.maxRep == 0 {
			rows = n
		}
	case format.DataPageV2:
		if !v2.Valid {
			return errors.New("a page without its header")
		}
		n, rows = int64(v2.V.NumValues), int64(v2.V.NumRows)
	case format.DictionaryPage:
	case format.IndexPage:
		_, err := l.r.Discard(int(h.CompressedPageSize))
		return err
	default:
		return fmt.Errorf("a page of a kind that is not known (%d)", h.Type)
	}
	if n < 0 || n > l.left || n > maxPageValues {
		return fmt.Errorf("a page of %d values where %d remain", n, l.left)
	}
	l.left -= n
	if rows > 0 && rows <= *skip {
		*skip -= rows
		l.rows += rows
		_, err := l.r.Discard(int(h.CompressedPageSize))
		return err
	}
	var raw bytes.Buffer // grows as bytes come: a size in a damaged header is not believed
	if m, err := io.CopyN(&raw, l.r, int64(h.CompressedPageSize)); err != nil {
		return fmt.Errorf("a page of %d bytes ends after %d: %w", h.CompressedPageSize, m, err)
	}
	if h.CRC != 0 && crc32.ChecksumIEEE(raw.Bytes()) != uint32(h.CRC) {
		return errors.New("the checksum of a page does not fit its bytes")
	}
	switch h.Type {
	case format.DictionaryPage:
		d := &h.DictionaryPageHeader
		if !d.Valid || l.dict != nil || d.V.NumValues < 0 {
			return errors.New("a dictionary that is out of place")
		}
		data, err := decompress(l.codec, raw.Bytes(), int(h.UncompressedPageSize))
		if err != nil {
			return err
		}
		dict, err := l.plain(data, int(d.V.NumValues))
		l.dict = &dict
		return err
	case format.DataPage:
		return l.dataV1(&v1.V, raw.Bytes(), int(h.UncompressedPageSize))
	}
	return l.dataV2(&v2.V, raw.Bytes(), int(h.UncompressedPageSize))
}

func (l *leaf) dataV1(h *format.DataPageHeader, raw []byte, size int) error {
	data, err := decompress(l.codec, raw, size)
	if err != nil {
		return err
	}
	n := int(h.NumValues)
	if l.reps, data, err = levelsV1(h.RepetitionLevelEncoding, data, l.maxRep, n); err != nil {
		return err
	}
	if l.defs, data, err = levelsV1(h.DefinitionLevelEncoding, data, l.maxDef, n); err != nil {
		return err
	}
	return l.decode(h.Encoding, data, n)
}

func (l *leaf) dataV2(h *format.DataPageHeaderV2, raw []byte, size int) error {
	n, reps, defs := int(h.NumValues), int(h.RepetitionLevelsByteLength), int(h.DefinitionLevelsByteLength)
	if reps < 0 || defs < 0 || reps+defs > len(raw) {
		return errors.New("levels that are longer than their page")
	}
	var err error
	if l.reps, err = levels(raw[:reps], l.maxRep, n); err != nil {
		return err
	}
	if l.defs, err = levels(raw[reps:reps+defs], l.maxDef, n); err != nil {
		return err
	}
	data := raw[reps+defs:]
	if len(data) > 0 && (!h.IsCompressed.Valid || h.IsCompressed.V) { // a page of nulls may have no bytes, where no bytes would be compressed to some
		if data, err = decompress(l.codec, data, size-reps-defs); err != nil {
			return err
		}
	}
	return l.decode(h.Encoding, data, n)
}

// levelsV1 reads levels that stand before the values, and returns what
// follows.
func levelsV1(e format.Encoding, data []byte, highest, n int) ([]uint8, []byte, error) {
	if highest == 0 {
		return nil, data, nil
	}
	if e == format.BitPacked { // deprecated: from the highest bit on
		width := widthOf(highest)
		size := (n*width + 7) / 8
		if size > len(data) {
			return nil, nil, errShort
		}
		out := make([]uint8, n)
		for i := range n * width {
			out[i/width] = out[i/width]<<1 | data[i/8]>>(7-i%8)&1
		}
		return out, data[size:], checkLevels(out, highest)
	}
	if len(data) < 4 || int64(binary.LittleEndian.Uint32(data)) > int64(len(data)-4) {
		return nil, nil, errShort
	}
	size := int(binary.LittleEndian.Uint32(data))
	out, err := levels(data[4:4+size], highest, n)
	return out, data[4+size:], err
}

func levels(data []byte, highest, n int) ([]uint8, error) {
	if highest == 0 {
		return nil, nil
	}
	out, err := hybrid[uint8](data, widthOf(highest), n)
	if err != nil {
		return nil, err
	}
	return out, checkLevels(out, highest)
}

func checkLevels(levels []uint8, highest int) error {
	for _, x := range levels {
		if int(x) > highest {
			return fmt.Errorf("a level of %d where %d is the highest", x, highest)
		}
	}
	return nil
}

// decode makes the n values of a page, nulls included, those to be taken.
func (l *leaf) decode(e format.Encoding, data []byte, n int) (err error) {
	full := n
	if l.defs != nil {
		full = bytes.Count(l.defs, []byte{uint8(l.maxDef)})
	}
	if full == 0 {
		l.vals = values{}
	} else if l.vals, err = l.values(e, data, full); err != nil {
		return fmt.Errorf("values encoded as %s: %w", e, err)
	}
	if l.rows == 0 && len(l.reps) > 0 && l.reps[0] != 0 {
		return errors.New("the first row begins in the middle")
	}
	l.n, l.i, l.v = n, 0, 0
	return nil
}

// decompress returns the size bytes that data was made from; another number of
// them is an error.
func decompress(codec format.CompressionCodec, data []byte, size int) (out []byte, err error) {
	if size < 0 {
		return nil, errors.New("a page of less than no bytes")
	}
	switch codec {
	case format.Uncompressed:
		out = data
	case format.Snappy:
		var n int // told by the data: a wrong one is not to take memory
		if n, err = snappy.DecodedLen(data); err == nil && n != size {
			err = fmt.Errorf("%d bytes instead of %d", n, size)
		} else if err == nil {
			out, err = snappy.Decode(nil, data)
		}
	case format.Gzip:
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(data)); err == nil {
			out, err = io.ReadAll(io.LimitReader(z, int64(size)+1))
		}
	case format.Brotli:
		out, err = io.ReadAll(io.LimitReader(brotli.NewReader(bytes.NewReader(data)), int64(size)+1))
	case format.Zstd:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true)); err == nil {
			out, err = io.ReadAll(io.LimitReader(z, int64(size)+1))
			z.Close()
		}
	case format.Lz4Raw:
		out, err = lz4Block(data, size)
	case format.Lz4:
		out, err = lz4Any(data, size)
	default:
		err = fmt.Errorf("compression %s is not known", codec)
	}
	if err == nil && len(out) != size {
		err = fmt.Errorf("%d bytes instead of %d", len(out), size)
	}
	if err != nil {
		return nil, fmt.Errorf("a page does not decompress (%s): %w", codec, err)
	}
	return out, nil
}

func lz4Block(data []byte, size int) ([]byte, error) {
	if size > 255*len(data)+64 { // the most that the format can hold
		return nil, fmt.Errorf("%d bytes cannot hold %d", len(data), size)
	}
	out := make([]byte, size)
	n, err := lz4.UncompressBlock(data, out)
	return out[:max(n, 0)], err
}

// lz4Any reads what was written under the name LZ4 before LZ4_RAW was told
// apart: Hadoop's blocks (the sizes, uncompressed and compressed, big-endian,
// before each), LZ4's own frames, or a bare block.
func lz4Any(data []byte, size int) ([]byte, error) {
	if out, ok := lz4Hadoop(data, size); ok {
		return out, nil
	}
	if bytes.HasPrefix(data, []byte{0x04, 0x22, 0x4d, 0x18}) {
		return io.ReadAll(io.LimitReader(lz4.NewReader(bytes.NewReader(data)), int64(size)+1))
	}
	return lz4Block(data, size)
}

func lz4Hadoop(data []byte, size int) (out []byte, ok bool) {
	for len(data) > 8 {
		whole, packed := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:])
		if int64(whole) > int64(size-len(out)) || int64(packed) > int64(len(data)-8) {
			return nil, false
		}
		block, err := lz4Block(data[8:8+packed], int(whole))
		if err != nil || len(block) != int(whole) {
			return nil, false
		}
		out, data = append(out, block...), data[8+packed:]
	}
	return out, len(data) == 0 && len(out) == size
}
