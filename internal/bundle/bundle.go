// Package bundle carries what one process has to another: a config and the files that
// it names, by content, and images by their paths. Who asks gets nothing else.
// What a config means it does not know.
package bundle

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix/internal/textfile"
)

const (
	// MaxSent is how many bytes of files are sent in all.
	MaxSent = 256 << 20
	// Address is where what a bundle has is asked for.
	Address = "f.head"

	version      = 1
	maxConfig    = 128 << 20 // bytes of a manifest
	maxFiles     = 100_000
	maxImage     = 64 << 20 // bytes of an image
	maxMirrored  = 1 << 20  // bytes of a file that changes
	maxKnown     = 100_000  // images whose checksums are remembered
	overhead     = 1024     // bytes of a frame that are not content
	leastContent = 4096
)

// File is a file of a bundle.
type File struct {
	Name string `json:"name"` // where it stands in a copy: a local path with slashes
	Path string `json:"path"` // where it stands at the one who has it
	Key  string `json:"key"`  // of the config, that names it
	Exec bool   `json:"exec,omitempty"`
	Sum  string `json:"sum,omitempty"` // SHA-256, in hexadecimal
	Size int64  `json:"size,omitempty"`

	// Shared files are too large to be sent: who wants one has to have it at the same
	// path. Mirrored ones change, and may not be there yet: copies follow them.
	Shared   bool `json:"shared,omitempty"`
	Mirrored bool `json:"mirrored,omitempty"`
}

// Contents are what a bundle is made of.
type Contents struct {
	Config  []byte          // the text of the config; stands as config.yaml at the root of a copy
	Note    json.RawMessage // for who opens a copy
	Files   []File          // less sums and sizes
	Folders []string        // that a copy has, also where nothing is in them
	Images  []string        // absolute folders: images in them may be asked for, none outside
	Warn    func(error)     // told of a file that has changed since, once; nil drops it
}

// Manifest is what there is.
type manifest struct {
	Version int             `json:"version"`
	Config  string          `json:"config"`
	Note    json.RawMessage `json:"note,omitempty"`
	Files   []File          `json:"files"`
	Folders []string        `json:"folders"`
}

// Bundle is what may be asked for.
type Bundle struct {
	Large []File // that are not sent, the largest first

	warn     func(error)
	images   []string
	manifest []byte
	sum      string
	files    []File

	mu      sync.Mutex
	content map[string][]*onDisk // by sum
	known   map[string]*onDisk   // images by path
}

// onDisk is a file as it was when its content was taken.
type onDisk struct {
	path    string
	sum     string
	size    int64
	changed time.Time
	told    bool // that it has changed
}

// New reads all files once. Of more than MaxSent bytes the largest are not sent. An
// error names the file that cannot be read.
func New(c Contents) (*Bundle, error) {
	b := &Bundle{warn: c.Warn, images: c.Images, content: map[string][]*onDisk{}, known: map[string]*onDisk{}}
	if len(c.Files) > maxFiles {
		return nil, fmt.Errorf("the config names %d files, and at most %d are sent: put them into an archive, or on a file system that all machines share", len(c.Files), maxFiles)
	}
	b.files = slices.Clone(c.Files)
	var total int64
	for i := range b.files {
		f := &b.files[i]
		if f.Mirrored {
			continue
		}
		d, err := look(f.Path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Key, err)
		}
		f.Sum, f.Size = d.sum, d.size
		b.content[d.sum] = append(b.content[d.sum], d)
		total += d.size
	}
	bySize := make([]int, len(b.files))
	for i := range bySize {
		bySize[i] = i
	}
	slices.SortStableFunc(bySize, func(i, j int) int { return cmp.Compare(b.files[j].Size, b.files[i].Size) })
	for _, i := range bySize {
		if total <= MaxSent {
			break
		}
		f := &b.files[i]
		f.Shared = true
		total -= f.Size
		b.Large = append(b.Large, *f)
	}
	var err error
	b.manifest, err = json.Marshal(manifest{version, string(c.Config), c.Note, b.files, c.Folders})
	if err != nil {
		return nil, err
	}
	if len(b.manifest) > maxConfig {
		return nil, fmt.Errorf("the config has %s with all that it refers to, and at most %s are sent", MiB(int64(len(b.manifest))), MiB(maxConfig))
	}
	b.sum = sumOf(b.manifest)
	return b, nil
}

// MiB is a number of bytes for people.
func MiB(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// Sum tells bundles apart: two with the same have the same in them.
func (b *Bundle) Sum() string { return b.sum }

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// look takes the sum of a file.
func look(path string) (*onDisk, error) {
	f, err := textfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, err
	}
	return &onDisk{path: path, sum: hex.EncodeToString(h.Sum(nil)), size: n, changed: info.ModTime()}, nil
}

// question is what is asked; one of its fields is set, or none: then for what there is.
type question struct {
	Sum    string `json:"sum,omitempty"`    // of a content of the bundle
	Image  string `json:"image,omitempty"`  // a path
	Mirror string `json:"mirror,omitempty"` // the name of a file that changes
	From   int64  `json:"from,omitempty"`
	Most   int    `json:"most"` // bytes
}

// answer stands before the bytes that were asked for, and ends with a line break.
type answer struct {
	Sum    string `json:"sum,omitempty"`
	Size   int64  `json:"size"`
	Absent bool   `json:"absent,omitempty"` // a file that changes is not there now
	Err    string `json:"error,omitempty"`
}

// Server is what a bundle is served over.
type Server interface {
	Answer(address string, f func(question []byte) []byte) (stop func(), err error)
	MaxFrame() int
}

// Serve answers who asks, until stop has returned.
func (b *Bundle) Serve(over Server) (stop func(), err error) {
	most := over.MaxFrame() - overhead
	if most < leastContent {
		return nil, fmt.Errorf("frames have %d bytes; want %d or more", over.MaxFrame(), leastContent+overhead)
	}
	return over.Answer(Address, func(ask []byte) []byte {
		var q question
		var a answer
		var content []byte
		err := json.Unmarshal(ask, &q)
		if err == nil {
			q.Most = max(0, min(q.Most, most))
			a, content, err = b.answer(q)
		}
		if err != nil {
			a, content = answer{Err: limited(err.Error())}, nil
		}
		head, _ := json.Marshal(a) // it has texts and numbers
		return slices.Concat(head, []byte("\n"), content)
	})
}

// limited is a message that fits beside content.
func limited(text string) string {
	const most = 256 // characters: one may become six bytes of JSON
	if r := []rune(strings.ToValidUTF8(text, "\uFFFD")); len(r) > most {
		return string(r[:most]) + "..."
	}
	return text
}

func (b *Bundle) answer(q question) (answer, []byte, error) {
	switch {
	case q.Image != "":
		return b.image(q)
	case q.Mirror != "":
		return b.mirror(q)
	case q.Sum == "":
		return answer{Sum: b.sum, Size: int64(len(b.manifest))}, nil, nil
	case q.Sum == b.sum:
		from := max(0, min(q.From, int64(len(b.manifest))))
		rest := b.manifest[from:]
		return answer{Sum: b.sum, Size: int64(len(b.manifest))}, rest[:min(len(rest), q.Most)], nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	for _, d := range b.content[q.Sum] { // of the same content, any that still has it
		var content []byte
		if content, err = d.read(q); err == nil {
			return answer{Sum: d.sum, Size: d.size}, content, nil
		}
		if b.warn != nil && !d.told {
			d.told = true
			b.warn(err)
		}
	}
	if err == nil {
		err = errors.New("there is no such file in what this run has for its workers")
	}
	return answer{}, nil, err
}

// ErrChanged says that a file is not what it was when its run began.
var ErrChanged = errors.New("has changed since the run was started: put it back as it was, or stop the run and start it again")

// read reads from a file, unless it has changed since its sum was taken.
func (d *onDisk) read(q question) ([]byte, error) {
	f, err := textfile.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != d.size || !info.ModTime().Equal(d.changed) {
		now, err := look(d.path)
		if err != nil {
			return nil, err
		}
		if now.sum != d.sum {
			return nil, fmt.Errorf("%s %w", d.path, ErrChanged)
		}
		d.changed = now.changed
	}
	return portion(f, d.size, q)
}

// portion reads what was asked for of a file with so many bytes.
func portion(f *os.File, size int64, q question) ([]byte, error) {
	from := max(0, q.From)
	content := make([]byte, max(0, min(int64(q.Most), size-from)))
	if len(content) == 0 {
		return nil, nil
	}
	if _, err := f.ReadAt(content, from); err != nil {
		return nil, err
	}
	return content, nil
}

// image answers of an image: a file below one of the folders that images are in.
func (b *Bundle) image(q question) (a answer, content []byte, err error) {
	if !filepath.IsAbs(q.Image) || !slices.ContainsFunc(b.images, func(dir string) bool {
		within, err := filepath.Rel(dir, filepath.Clean(q.Image))
		return err == nil && filepath.IsLocal(within)
	}) {
		return a, nil, fmt.Errorf("%s is outside of the folders that images may be read from: say by image_dir which folder holds them all, / for any", q.Image)
	}
	path := filepath.Clean(q.Image)
	f, err := textfile.Open(path)
	if err != nil {
		return a, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return a, nil, err
	}
	b.mu.Lock()
	d := b.known[path]
	b.mu.Unlock()
	if d == nil || d.size != info.Size() || !d.changed.Equal(info.ModTime()) {
		if d, err = lookImage(f, path, info); err != nil {
			return a, nil, err
		}
		b.mu.Lock()
		if len(b.known) >= maxKnown {
			clear(b.known)
		}
		b.known[path] = d
		b.mu.Unlock()
	}
	content, err = portion(f, d.size, q)
	return answer{Sum: d.sum, Size: d.size}, content, err
}

// lookImage takes the sum of an image. Another file is refused: its content is
// nobody's business.
func lookImage(f *os.File, path string, info fs.FileInfo) (*onDisk, error) {
	if info.Size() > maxImage {
		return nil, fmt.Errorf("%s is larger than %s", path, MiB(maxImage))
	}
	content, err := io.ReadAll(io.LimitReader(f, maxImage))
	if err != nil {
		return nil, err
	}
	if is := http.DetectContentType(content); len(content) > 0 && !strings.HasPrefix(is, "image/") {
		return nil, fmt.Errorf("%s is not an image (it is %s): want PNG, JPEG, WebP or GIF", path, is)
	}
	d := &onDisk{path: path, sum: sumOf(content), size: int64(len(content)), changed: info.ModTime()}
	if info.Size() != d.size {
		d.changed = time.Time{} // it grows, or is cut: look again each time
	}
	return d, nil
}

// mirror answers of a file that changes: all that it holds.
func (b *Bundle) mirror(q question) (a answer, content []byte, err error) {
	i := slices.IndexFunc(b.files, func(f File) bool { return f.Mirrored && f.Name == q.Mirror })
	if i < 0 {
		return a, nil, errors.New("there is no such file in what this run has for its workers")
	}
	f, err := textfile.Open(b.files[i].Path)
	if errors.Is(err, fs.ErrNotExist) {
		return answer{Absent: true}, nil, nil
	}
	if err != nil {
		return a, nil, err
	}
	defer f.Close()
	content, err = io.ReadAll(io.LimitReader(f, maxMirrored))
	if len(content) > q.Most {
		return a, nil, fmt.Errorf("%s is larger than %s", f.Name(), MiB(int64(q.Most)))
	}
	return answer{Sum: sumOf(content), Size: int64(len(content))}, content, err
}

// cutAnswer is an answer and the bytes behind it.
func cutAnswer(raw []byte) (a answer, content []byte, err error) {
	head, content, ok := bytes.Cut(raw, []byte("\n"))
	if !ok {
		return a, nil, errors.New("not an answer of a run")
	}
	return a, content, json.Unmarshal(head, &a)
}
