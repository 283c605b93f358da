package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // decoders of images that are made smaller
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp"
	"golang.org/x/sync/semaphore"

	"matrix"
	"matrix/lang"
	"matrix/llm"
)

const (
	maxImage   = 64 << 20  // bytes of one image
	maxPixels  = 200 << 20 // of one that is made smaller
	maxDecoded = 512 << 20 // bytes of memory for all that are decoded at once; a larger image has it alone
)

// ImageMemory bounds the memory of the images that are made smaller at once, for
// all agents that share it. A nil one has no bound.
type ImageMemory struct{ bytes *semaphore.Weighted }

// NewImageMemory returns one of which all is free.
func NewImageMemory() *ImageMemory { return &ImageMemory{semaphore.NewWeighted(maxDecoded)} }

// acquire waits until there is memory for an image, and returns what gives it back.
func (m *ImageMemory) acquire(c image.Config) func() {
	if m == nil {
		return func() {}
	}
	bytes := int64(c.Width) * int64(c.Height)
	switch c.ColorModel {
	case color.GrayModel:
	case color.RGBA64Model, color.NRGBA64Model, color.YCbCrModel, color.CMYKModel, color.NYCbCrAModel: // a JPEG's parts are kept beside it
		bytes *= 8
	default:
		if _, ok := c.ColorModel.(color.Palette); !ok {
			bytes *= 4
		}
	}
	bytes = min(bytes, maxDecoded)
	_ = m.bytes.Acquire(context.Background(), bytes) // a decoding ends soon
	return func() { m.bytes.Release(bytes) }
}

// ReadImage reads a file that a row names as an image: path is absolute, and below the
// folder of images. A *matrix.RetryError says that it may be there later.
type ReadImage func(ctx context.Context, path string) ([]byte, error)

// imageLoader finds the images of a task.
type imageLoader struct {
	dir     string
	detail  string
	side    int
	memory  *ImageMemory
	read    ReadImage
	entries []imageSource
}

// imageSource is one of the two.
type imageSource struct {
	template *lang.Template
	expr     *lang.Expr
}

// place matches a path or an address as it stands outside of an expression.
var place = regexp.MustCompile(`(?i)^(https?:\S+|data:\S+|[^\s"'(]*[^\s"'(.]\.(png|jpe?g|gif|webp))$`)

func newImageLoader(c Chat, s *sources) imageLoader {
	l := imageLoader{dir: c.ImageDir, detail: c.ImageDetail, side: c.ImageSide, memory: c.ImageMemory, read: c.ReadImage}
	for i, src := range c.Images {
		field := fmt.Sprintf("images.%d", i)
		switch {
		case strings.TrimSpace(src) == "":
			s.bad.addf(field, "is empty")
		case strings.Contains(src, "{{") || strings.Contains(src, "{%"):
			l.entries = append(l.entries, imageSource{template: s.template(field, src)})
		default:
			if _, err := lang.CompileExpr(src, s.params); err != nil && place.MatchString(src) {
				s.bad.addf(field, `an entry is an expression, such as item.image; a fixed path is a text in it: '%q'`, src)
				continue
			}
			l.entries = append(l.entries, imageSource{expr: s.expr(field, src)})
		}
	}
	if !slices.Contains([]string{"", "low", "high", "auto"}, c.ImageDetail) {
		s.bad.addf("image_detail", "got %q, want low, high or auto", c.ImageDetail)
	}
	if c.ImageSide < 0 {
		s.bad.addf("image_max_side", "got %d, want 0 or more", c.ImageSide)
	}
	if len(c.Images) == 0 && c.ImageDetail != "" {
		s.bad.addf("image_detail", "needs images beside it")
	}
	if len(c.Images) == 0 && c.ImageSide > 0 {
		s.bad.addf("image_max_side", "needs images beside it")
	}
	return l
}

func (l *imageLoader) mentions() []Mention {
	var ms []Mention
	for i, e := range l.entries {
		key := fmt.Sprintf("images.%d", i)
		if e.expr != nil {
			ms = append(ms, mention(key, e.expr))
		} else if e.template != nil {
			ms = append(ms, mention(key, e.template))
		}
	}
	return ms
}

// attach puts the images of t into the last message of the user.
func (l *imageLoader) attach(ctx context.Context, t *matrix.Task, ms []llm.Message) ([]llm.Message, error) {
	if len(l.entries) == 0 {
		return ms, nil
	}
	var images []llm.Image
	for i, e := range l.entries {
		found, err := l.evaluate(t, e)
		if err == nil {
			images, err = l.gather(ctx, images, found)
		}
		if err != nil {
			return nil, fmt.Errorf("image %d of row %s: %w", i+1, t.Row, err)
		}
	}
	if len(images) == 0 {
		return ms, nil
	}
	for i := len(ms) - 1; i >= 0; i-- {
		if ms[i].Role == "user" {
			ms[i].Images = images
			return ms, nil
		}
	}
	return nil, errors.New("images go to the user's last message, and there is none")
}

func (l *imageLoader) evaluate(t *matrix.Task, e imageSource) (any, error) {
	if e.template != nil {
		return e.template.Render(t, nil)
	}
	return e.expr.Eval(t)
}

// gather adds what v is: an image or a list of images.
func (l *imageLoader) gather(ctx context.Context, images []llm.Image, v any) ([]llm.Image, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, v := range list {
		m, err := l.image(ctx, v)
		if err != nil {
			return nil, err
		}
		m.Detail = l.detail
		images = append(images, m)
	}
	return images, nil
}

// image is the image that v names or holds.
func (l *imageLoader) image(ctx context.Context, v any) (llm.Image, error) {
	switch v := v.(type) {
	case nil:
		return llm.Image{}, errors.New("it is null; where a row may have none, write `item.image ?? []`")
	case string:
		return l.named(ctx, strings.TrimSpace(v))
	case map[string]any: // as Hugging Face datasets stores its Image
		if text, ok := v["bytes"].(string); ok && strings.HasPrefix(text, "data:") {
			return l.named(ctx, text)
		} else if ok && text != "" {
			data, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				data = []byte(text)
			}
			return l.loaded(data, "its bytes")
		}
		for _, key := range []string{"path", "url"} {
			if text, ok := v[key].(string); ok && text != "" {
				return l.named(ctx, text)
			}
		}
		return llm.Image{}, errors.New("the object has neither bytes nor a path")
	}
	raw, err := matrix.NewValue(v)
	if err != nil {
		return llm.Image{}, err
	}
	return llm.Image{}, fmt.Errorf("%s is not an image: want a path, a URL, base64, or {bytes, path}", shorten(raw.Raw()))
}

// signatures are how base64 of the kinds of images begins.
var signatures = []string{"iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR"}

// named is the image that a text names: an address, the data itself, or a path.
func (l *imageLoader) named(ctx context.Context, s string) (llm.Image, error) {
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme = strings.ToLower(scheme); {
	case s == "":
		return llm.Image{}, errors.New("it is an empty text; where a row may have none, write `item.image != \"\" ? item.image : []`")
	case (scheme == "http" || scheme == "https") && strings.HasPrefix(rest, "//"):
		return llm.Image{URL: s}, nil
	case scheme == "data":
		head, body, ok := strings.Cut(rest, ",")
		if !ok || !strings.HasSuffix(head, ";base64") {
			return llm.Image{}, fmt.Errorf("%s is not a data: URL in base64", shorten([]byte(s)))
		}
		data, err := base64.StdEncoding.DecodeString(body)
		if err != nil {
			return llm.Image{}, fmt.Errorf("%s is not base64: %w", shorten([]byte(s)), err)
		}
		return l.loaded(data, "the data: URL")
	}
	for _, begin := range signatures {
		if !strings.HasPrefix(s, begin) {
			continue
		}
		if data, err := base64.StdEncoding.DecodeString(s); err == nil && mediaOf(data) != "" {
			return l.loaded(data, "the base64")
		}
	}
	return l.file(ctx, s)
}

// file reads an image from disk.
func (l *imageLoader) file(ctx context.Context, path string) (llm.Image, error) {
	if len(path) > 4096 {
		return llm.Image{}, fmt.Errorf("%s is neither a path nor base64 of an image", shorten([]byte(path)))
	}
	if l.dir == "" {
		return llm.Image{}, fmt.Errorf("%s cannot be read: say by image_dir in which folder images are", path)
	}
	dir, err := filepath.Abs(l.dir)
	if err != nil {
		return llm.Image{}, err
	}
	within := path
	if filepath.IsAbs(path) {
		if within, err = filepath.Rel(dir, path); err != nil {
			within = ".."
		}
	}
	if !filepath.IsLocal(within) {
		return llm.Image{}, fmt.Errorf("%s is outside of %s, which images may be read from: say by image_dir which folder holds them all, / for any", path, l.dir)
	}
	path = filepath.Join(dir, within)
	read := l.read
	if read == nil {
		read = readImage
	}
	data, err := read(ctx, path)
	if err != nil {
		return llm.Image{}, err
	}
	return l.loaded(data, path)
}

// readImage reads a file from disk; of one that is too large for an image, so much
// that this can be seen.
func readImage(_ context.Context, path string) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened: a pipe would wait for a writer
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxImage+1))
}

// failed is err as the fate of the task whose request could not be made: it fails,
// unless err says that it shall come back, or that the run stops.
func failed(err error) error {
	if errors.As(err, new(*matrix.RetryError)) || errors.As(err, new(*matrix.StopError)) || errors.Is(err, context.Canceled) {
		return err
	}
	return &matrix.FailError{Err: err}
}

// loaded checks an image and makes it smaller where that is asked for.
func (l *imageLoader) loaded(data []byte, name string) (llm.Image, error) {
	media := mediaOf(data)
	switch {
	case len(data) == 0:
		return llm.Image{}, fmt.Errorf("%s is empty", name)
	case len(data) > maxImage:
		return llm.Image{}, fmt.Errorf("%s is larger than %d MiB", name, maxImage>>20)
	case media == "":
		return llm.Image{}, fmt.Errorf("%s is not an image (it is %s): want PNG, JPEG, WebP or GIF", name, http.DetectContentType(data))
	}
	if missing := l.truncated(media, data); missing != "" {
		return llm.Image{}, fmt.Errorf("%s is cut short: it ends after %d bytes, without %s; copy or download it again", name, len(data), missing)
	}
	m := llm.Image{Data: data, Media: media}
	if l.side == 0 {
		return m, nil
	}
	m, err := shrink(m, l.side, l.memory)
	if err != nil {
		return llm.Image{}, fmt.Errorf("%s cannot be decoded: %w", name, err)
	}
	return m, nil
}

// mediaOf is the type of an image that services take; empty for anything else.
func mediaOf(data []byte) string {
	media := http.DetectContentType(data)
	if slices.Contains([]string{"image/png", "image/jpeg", "image/webp", "image/gif"}, media) {
		return media
	}
	return ""
}

// shrink makes an image whose sides are at most so many pixels long; one that
// fits stays as it is. Of an animation the first picture is left, and a JPEG
// keeps what its EXIF says.
func shrink(m llm.Image, side int, memory *ImageMemory) (llm.Image, error) {
	size, _, err := image.DecodeConfig(bytes.NewReader(m.Data))
	if err != nil {
		return m, err
	}
	longer := max(size.Width, size.Height)
	if longer <= side {
		return m, nil
	}
	if size.Width > maxPixels/max(1, size.Height) {
		return m, fmt.Errorf("it has %d by %d pixels", size.Width, size.Height)
	}
	defer memory.acquire(size)()
	big, _, err := image.Decode(bytes.NewReader(m.Data))
	if err != nil {
		return m, err
	}
	scaled := func(n int) int { return max(1, (n*side+longer/2)/longer) }
	small := image.NewNRGBA(image.Rect(0, 0, scaled(size.Width), scaled(size.Height)))
	draw.CatmullRom.Scale(small, small.Bounds(), big, big.Bounds(), draw.Src, nil)
	var b bytes.Buffer
	if m.Media != "image/jpeg" {
		err = png.Encode(&b, small)
		return llm.Image{Data: b.Bytes(), Media: "image/png"}, err
	}
	if err := jpeg.Encode(&b, small, &jpeg.Options{Quality: 90}); err != nil {
		return m, err
	}
	m.Data = slices.Insert(b.Bytes(), 2, exif(m.Data)...)
	return m, nil
}

// exif is the segment of a JPEG that says how it was taken, and with it which
// side is up; nil where it has none. See JEITA CP-3451, 4.5.
func exif(data []byte) []byte {
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		end := at + 2 + int(binary.BigEndian.Uint16(data[at+2:]))
		switch marker := data[at+1]; {
		case end > len(data) || end < at+4 || marker == 0xda: // the picture itself
			return nil
		case marker == 0xe1 && bytes.HasPrefix(data[at+4:end], []byte("Exif\x00\x00")):
			return data[at:end]
		}
		at = end
	}
	return nil
}
