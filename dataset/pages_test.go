package dataset

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// A page comes out as it went in, or not at all: never shorter, and never with
// what stood in memory before.
func TestPagesDecompressWholeOrNotAtAll(t *testing.T) {
	var page []byte
	for i := range 5000 {
		page = binary.LittleEndian.AppendUint64(page, uint64(i*7919%100))
	}
	written := func(w io.WriteCloser, b *bytes.Buffer) []byte {
		if _, err := w.Write(page); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var zipped, brotlied, framed bytes.Buffer
	block := func(p []byte) []byte {
		b := make([]byte, lz4.CompressBlockBound(len(p)))
		n, err := new(lz4.Compressor).CompressBlock(p, b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
	hadoop := func(parts ...[]byte) (out []byte) {
		for _, p := range parts {
			b := block(p)
			out = binary.BigEndian.AppendUint32(out, uint32(len(p)))
			out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
			out = append(out, b...)
		}
		return out
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		codec format.CompressionCodec
		data  []byte
	}{
		{"none", format.Uncompressed, page},
		{"snappy", format.Snappy, snappy.Encode(nil, page)},
		{"gzip", format.Gzip, written(gzip.NewWriter(&zipped), &zipped)},
		{"brotli", format.Brotli, written(brotli.NewWriter(&brotlied), &brotlied)},
		{"zstd", format.Zstd, z.EncodeAll(page, nil)},
		{"lz4", format.Lz4Raw, block(page)},
		{"lz4 of Hadoop", format.Lz4, hadoop(page)},
		{"lz4 of Hadoop in parts", format.Lz4, hadoop(page[:1000], page[1000:9000], page[9000:])},
		{"lz4 block under the old name", format.Lz4, block(page)},
		{"lz4 frame", format.Lz4, written(lz4.NewWriter(&framed), &framed)},
	} {
		if got, err := decompress(test.codec, test.data, len(page)); err != nil || !bytes.Equal(got, page) {
			t.Errorf("%s: got %d bytes, %v, want the page", test.name, len(got), err)
		}
		for _, size := range []int{len(page) - 1, len(page) + 1, 0, 3 * len(page)} {
			if got, err := decompress(test.codec, test.data, size); err == nil {
				t.Errorf("%s: a page of %d bytes that says %d: got %d bytes and no error", test.name, len(page), size, len(got))
			}
		}
		for _, cut := range []int{0, 1, len(test.data) / 2, len(test.data) - 9} {
			if got, err := decompress(test.codec, test.data[:cut], len(page)); err == nil {
				t.Errorf("%s: cut after %d of %d bytes: got %d bytes and no error", test.name, cut, len(test.data), len(got))
			}
		}
	}
	if _, err := decompress(format.LZO, page, len(page)); err == nil {
		t.Error("LZO: got no error")
	}
}

// Writers leave the values of a page of nulls out, compressed or not.
func TestPageOfNulls(t *testing.T) {
	l := &leaf{name: "a", kind: format.ByteArray, maxDef: 1}
	if err := l.dataV2(&format.DataPageHeaderV2{NumValues: 3, NumNulls: 3, NumRows: 3, DefinitionLevelsByteLength: 2}, []byte{3 << 1, 0}, 2); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if v, ok, err := l.take(); ok || err != nil {
			t.Errorf("got %q, %v, want null", v, err)
		}
	}
}

func TestHybridGivesAllValuesOrAnError(t *testing.T) {
	data := []byte{5 << 1, 7, 1<<1 | 1, 0x88, 0xc6, 0xfa} // five times 7, then 0 to 7 in three bits each
	want := []uint8{7, 7, 7, 7, 7, 0, 1, 2, 3, 4, 5, 6, 7}
	for n := range len(want) + 1 {
		if got, err := hybrid[uint8](data, 3, n); err != nil || !bytes.Equal(got, want[:n]) {
			t.Errorf("%d values: got %v, %v, want %v", n, got, err, want[:n])
		}
	}
	if got, err := hybrid[uint8](data, 3, len(want)+1); err == nil {
		t.Errorf("a value too many: got %v", got)
	}
	if got, err := hybrid[uint8](data[:4], 3, 8); err == nil {
		t.Errorf("cut short: got %v", got)
	}
	if got, data, err := levelsV1(format.BitPacked, []byte{0x1b, 0xff}, 3, 4); err != nil || !bytes.Equal(got, []byte{0, 1, 2, 3}) || len(data) != 1 {
		t.Errorf("bit-packed levels: got %v, %v, want 0 to 3 and a byte left", got, err)
	}
}

// A damaged file gives rows and then an error, or an error: it does not crash.
func FuzzParquet(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "parquet", "*.parquet"))
	if err != nil || len(files) == 0 {
		f.Fatalf("got %d files, %v", len(files), err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) < 8<<10 {
			f.Add(b)
		}
	}
	path := filepath.Join(f.TempDir(), "fuzz.parquet")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := openParquet(t.Context(), &file{path: path}, 0)
		if err != nil {
			return
		}
		defer r.Close()
		for range 1000 {
			if _, err := r.next(); err != nil {
				return
			}
		}
	})
}
