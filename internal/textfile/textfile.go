// Package textfile opens files that people name, and tells by their first bytes those that are not text in UTF-8.
package textfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Open opens a regular file. Others are refused unopened: a pipe or a device may keep its reader for ever. The error is
// an *fs.PathError.
func Open(path string) (*os.File, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("is %s, not a file", kind(info.Mode()))}
	}
	return os.Open(path)
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "of another kind"
}

// HeadBytes is how much of a file is enough for Foreign.
const HeadBytes = 64 << 10

// Read returns what a text file of at most limit bytes holds.
func Read(path string, limit int64) ([]byte, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("has more than %d bytes", limit)
	}
	if err == nil {
		err = Foreign(b[:min(len(b), HeadBytes)])
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return b, nil
}

// The beginnings of Gzip, Zstandard and Parquet files.
const (
	Gzip    = "\x1f\x8b"
	Zstd    = "\x28\xb5\x2f\xfd"
	Parquet = "PAR1"
)

// Foreign says what a file is that begins with head, and how to make it text in UTF-8: an error that goes on after the
// file's name. It is nil where head may be such text. Markup is no such text, either: see Binary.
func Foreign(head []byte) error {
	if err := Binary(head); err != nil {
		return err
	}
	text := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(head[:min(len(head), 1024)], []byte("\xef\xbb\xbf")), " \t\r\n"))
	for _, tag := range []string{"<!doctype html", "<html", "<head"} {
		if bytes.HasPrefix(text, []byte(tag)) {
			return errors.New("is a web page, such as a sign-in or an error, and not what it is named: fetch the file again")
		}
	}
	if bytes.HasPrefix(text, []byte("<?xml")) {
		return errors.New("is XML: write it as JSON Lines, CSV or Parquet")
	}
	return nil
}

// Binary is Foreign for files in which markup is welcome.
func Binary(head []byte) error {
	for _, k := range []struct{ head, says string }{
		{"\xff\xfe\x00\x00", "is text in UTF-32: convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW"},
		{"\x00\x00\xfe\xff", "is text in UTF-32: convert it: iconv -f UTF-32 -t UTF-8 FILE > NEW"},
		{"\xff\xfe", "is text in UTF-16: convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"},
		{"\xfe\xff", "is text in UTF-16: convert it: iconv -f UTF-16 -t UTF-8 FILE > NEW"},
		{"version https://git-lfs.github.com/spec/", "is a pointer of Git LFS, not the file itself: fetch it: git lfs pull"},
		{"/annex/objects/", "is a pointer of git-annex, not the file itself: fetch it: git annex get FILE"},
		{Gzip, "is compressed with gzip: unpack it: gunzip FILE"},
		{Zstd, "is compressed with zstd: unpack it: unzstd FILE"},
		{"BZh", "is compressed with bzip2: unpack it: bunzip2 FILE"},
		{"\xfd7zXZ\x00", "is compressed with xz: unpack it: unxz FILE"},
		{"\x04\x22\x4d\x18", "is compressed with LZ4: unpack it: lz4 -d FILE"},
		{"PK\x03\x04", "is a zip archive or a workbook of Excel: unpack it, or save it as CSV in UTF-8"},
		{"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive: unpack it"},
		{"\xd0\xcf\x11\xe0", "is a document of an old Office: save it as CSV in UTF-8"},
		{Parquet, "is a Parquet file"},
		{"PARE", "is an encrypted Parquet file: decrypt it"},
		{"ARROW1", "is an Arrow file (Feather): write it as Parquet or JSON Lines"},
		{"ORC", "is an ORC file: write it as Parquet or JSON Lines"},
		{"Obj\x01", "is an Avro file: write it as Parquet or JSON Lines"},
		{"SQLite format 3\x00", "is a database of SQLite: write the table as CSV or JSON Lines"},
		{"\x89HDF", "is an HDF5 file: write it as Parquet or JSON Lines"},
		{"\x93NUMPY", "is a NumPy file: write it as Parquet or JSON Lines"},
		{"%PDF-", "is a PDF: take its text out: pdftotext -layout FILE FILE.txt"},
	} {
		if bytes.HasPrefix(head, []byte(k.head)) {
			return errors.New(k.says)
		}
	}
	if len(head) > 2 && head[0] == 0x80 && head[1] <= 5 { // a protocol of pickle; no UTF-8 begins so
		return errors.New("is a pickle of Python: write it as Parquet or JSON Lines")
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return errors.New("is a tar archive: unpack it")
	}
	if order := wide(head); order != "" {
		return fmt.Errorf("is text in %s: convert it: iconv -f %s -t UTF-8 FILE > NEW", order, order)
	}
	return nil
}

// wide is the byte order of UTF-16 without a mark, where head is plainly that: text in which every other byte is zero
// but for a few.
func wide(head []byte) string {
	var zeros [2]int
	for i, c := range head {
		if c == 0 {
			zeros[i%2]++
		}
	}
	n := len(head) / 2
	switch {
	case n < 4:
	case zeros[1]*10 >= n*7 && zeros[0]*20 <= n:
		return "UTF-16LE"
	case zeros[0]*10 >= n*7 && zeros[1]*20 <= n:
		return "UTF-16BE"
	}
	return ""
}
