package textfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestForeign(t *testing.T) {
	for head, want := range map[string]string{
		"": "", "{\"a\":1}\n": "", "a,b\n1,2\n": "", "caf\xc3\xa9": "", "caf\xe9": "", "\xef\xbb\xbf{}": "", "\x00\x00\n{}": "", "<b>bold</b>,x\n": "", "versions\n": "", "BZ": "", "a\x00b\x00c": "",
		"\xff\xfea\x00": "UTF-16", "\xfe\xff\x00a": "UTF-16", "\xff\xfe\x00\x00a\x00\x00\x00": "UTF-32",
		"i\x00d\x00\n\x00a\x00b\x00": "UTF-16LE", "\x00i\x00d\x00\n\x00a\x00b": "UTF-16BE",
		"version https://git-lfs.github.com/spec/v1\n": "git lfs pull", "/annex/objects/SHA256E-s1": "git annex get",
		"\x1f\x8b\x08": "gunzip", "\x28\xb5\x2f\xfd": "unzstd", "BZh91AY": "bunzip2", "\xfd7zXZ\x00": "unxz", "PK\x03\x04": "Excel", "PAR1": "Parquet", "ARROW1\x00": "Arrow", "\x80\x04\x95": "pickle",
		"\n <!DOCTYPE HTML>": "web page", "<html lang=en>": "web page", "\xef\xbb\xbf<?xml version": "XML", strings.Repeat("a", 257) + "ustar\x00": "tar",
	} {
		err := Foreign([]byte(head))
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", head, err, want)
		}
	}
}

// A pipe that nobody writes to would keep its reader for ever.
func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	for path, want := range map[string]string{pipe: "is a pipe, not a file", os.DevNull: "is a device, not a file", dir: "is a folder, not a file", pipe + "x": "no such file"} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
		if _, err := Read(path, 10); err == nil {
			t.Errorf("%s: read without an error", path)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Read(file, 10); err != nil || string(b) != "0123456789" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := Read(file, 9); err == nil || !strings.Contains(err.Error(), "more than 9 bytes") {
		t.Errorf("over the limit: got %v", err)
	}
}
