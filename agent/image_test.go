package agent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"matrix"
	"matrix/llm"
)

func picture(t testing.TB, kind string, w, h int) []byte {
	t.Helper()
	m := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.White, color.Black})
	for i := range m.Pix {
		m.Pix[i] = uint8(i / 7 % 2)
	}
	var b bytes.Buffer
	var err error
	switch kind {
	case "jpeg":
		err = jpeg.Encode(&b, m, nil)
	case "gif":
		err = gif.Encode(&b, m, nil)
	default:
		err = png.Encode(&b, m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// webp is one pixel, losslessly.
const webp = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="

func TestChatImages(t *testing.T) {
	dir := t.TempDir()
	small, photo := picture(t, "png", 4, 2), picture(t, "jpeg", 4, 2)
	for name, data := range map[string][]byte{"a.png": small, "sub/b.jpg": photo, "notes.txt": []byte("plain words"), "empty.png": nil} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	b64 := base64.StdEncoding.EncodeToString
	pixel, err := base64.StdEncoding.DecodeString(webp)
	if err != nil {
		t.Fatal(err)
	}
	img := func(data []byte, media string) llm.Image { return llm.Image{Data: data, Media: media} }
	for _, tt := range []struct {
		name   string
		item   any
		images []string
		want   []llm.Image
		err    string
	}{
		{"path", map[string]any{"f": "a.png"}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"template", map[string]any{"f": "b"}, []string{"sub/{{ item.f }}.jpg"}, []llm.Image{img(photo, "image/jpeg")}, ""},
		{"absolute", map[string]any{"f": filepath.Join(dir, "a.png")}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"two", map[string]any{"f": "a.png"}, []string{"item.f", "'sub/b.jpg'"}, []llm.Image{img(small, "image/png"), img(photo, "image/jpeg")}, ""},
		{"list", map[string]any{"f": []any{"a.png", "http://x/y.png"}}, []string{"item.f"}, []llm.Image{img(small, "image/png"), {URL: "http://x/y.png"}}, ""},
		{"none", map[string]any{"f": nil}, []string{"item.f ?? []"}, nil, ""},
		{"bytes of Parquet", map[string]any{"f": map[string]any{"bytes": "data:;base64," + b64(small), "path": "a.png"}}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"a binary column of Parquet", map[string]any{"f": "data:;base64," + b64(small)}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"data URL", map[string]any{"f": "data:image/png;base64," + b64(small)}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"base64", map[string]any{"f": b64(small)}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"base64 of JPEG", map[string]any{"f": b64(photo)}, []string{"item.f"}, []llm.Image{img(photo, "image/jpeg")}, ""},
		{"GIF", map[string]any{"f": b64(picture(t, "gif", 2, 2))}, []string{"item.f"}, []llm.Image{img(picture(t, "gif", 2, 2), "image/gif")}, ""},
		{"WebP", map[string]any{"f": webp}, []string{"item.f"}, []llm.Image{img(pixel, "image/webp")}, ""},
		{"of datasets", map[string]any{"f": map[string]any{"bytes": b64(photo), "path": "gone.jpg"}}, []string{"item.f"}, []llm.Image{img(photo, "image/jpeg")}, ""},
		{"of datasets, a path", map[string]any{"f": map[string]any{"bytes": nil, "path": "a.png"}}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},

		{"none in a row", map[string]any{"f": ""}, []string{`item.f != "" ? item.f : []`}, nil, ""},
		{"null", map[string]any{"f": nil}, []string{"item.f"}, nil, "image 1 of row q7: it is null; where a row may have none"},
		{"empty text", map[string]any{"f": " "}, []string{"item.f"}, nil, "image 1 of row q7: it is an empty text; where a row may have none, write `item.image != \"\" ? item.image : []`"},
		{"not there", map[string]any{"f": "gone.png"}, []string{"'a.png'", "item.f"}, nil, "image 2 of row q7: stat " + filepath.Join(dir, "gone.png") + ": no such file"},
		{"no image", map[string]any{"f": "notes.txt"}, []string{"item.f"}, nil, "image 1 of row q7: " + filepath.Join(dir, "notes.txt") + " is not an image (it is text/plain"},
		{"cut short", map[string]any{"f": b64(small[:len(small)-12])}, []string{"item.f"}, nil, "image 1 of row q7: the base64 is cut short: it ends after "},
		{"empty file", map[string]any{"f": "empty.png"}, []string{"item.f"}, nil, "image 1 of row q7: " + filepath.Join(dir, "empty.png") + " is empty"},
		{"folder", map[string]any{"f": "sub"}, []string{"item.f"}, nil, "image 1 of row q7: " + filepath.Join(dir, "sub") + " is not a file"},
		{"bad data URL", map[string]any{"f": "data:image/png;base64,####"}, []string{"item.f"}, nil, "image 1 of row q7: data:image/png;base64,#### is not base64"},
		{"data URL of text", map[string]any{"f": "data:text/plain;base64,aGFsbG8="}, []string{"item.f"}, nil, "image 1 of row q7: the data: URL is not an image"},
		{"absolute, elsewhere", map[string]any{"f": "/etc/passwd"}, []string{"item.f"}, nil, "image 1 of row q7: /etc/passwd is outside of " + dir + ", which images may be read from: say by image_dir"},
		{"elsewhere, not there", map[string]any{"f": "/no/such/file"}, []string{"item.f"}, nil, "image 1 of row q7: /no/such/file is outside of "},
		{"up", map[string]any{"f": "sub/../../x.png"}, []string{"item.f"}, nil, "image 1 of row q7: sub/../../x.png is outside of "},
		{"a path of datasets, up", map[string]any{"f": map[string]any{"path": "../x.png"}}, []string{"item.f"}, nil, "image 1 of row q7: ../x.png is outside of "},
		{"up and down", map[string]any{"f": "sub/../a.png"}, []string{"item.f"}, []llm.Image{img(small, "image/png")}, ""},
		{"number", map[string]any{"f": 7}, []string{"item.f"}, nil, "image 1 of row q7: 7 is not an image"},
		{"empty object", map[string]any{"f": map[string]any{}}, []string{"item.f"}, nil, "image 1 of row q7: the object has neither bytes nor a path"},
		{"long text", map[string]any{"f": strings.Repeat("x", 5000)}, []string{"item.f"}, nil, "image 1 of row q7: xxx"},
		{"no field", map[string]any{}, []string{"item.f"}, nil, `image 1 of row q7: item has no field "f"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tk := task(t)
			raw, err := json.Marshal(tt.item)
			if err != nil {
				t.Fatal(err)
			}
			tk.Item = value(t, string(raw))
			m := says("a cat")
			_, err = newChat(t, Chat{System: "s", Prompt: "p", Images: tt.images, ImageDir: dir}, m).Act(t.Context(), tk)
			if tt.err != "" {
				var fail *matrix.FailError
				if !errors.As(err, &fail) || !strings.HasPrefix(err.Error(), tt.err) || len(err.Error()) > 400 {
					t.Errorf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := []llm.Message{msg("system", "s"), {Role: "user", Content: "p", Images: tt.want}}
			if got := m.requests[0].Messages; !reflect.DeepEqual(got, want) {
				t.Errorf("got %.300v, want %.300v", got, want)
			}
		})
	}
	tk := task(t)
	_, err = newChat(t, Chat{Prompt: "p", Images: []string{"'a.png'"}}, says("x")).Act(t.Context(), tk)
	if err == nil || !strings.Contains(err.Error(), "a.png cannot be read: say by image_dir in which folder") {
		t.Errorf("got %v", err)
	}
	tk.Turns = []matrix.Turn{{Role: "teacher", Text: "alone"}}
	_, err = newChat(t, Chat{Sees: []string{"teacher"}, Images: []string{"'a.png'"}, ImageDir: dir}, says("x")).Act(t.Context(), tk)
	if err == nil || !strings.Contains(err.Error(), "images go to the user's last message, and there is none") {
		t.Errorf("got %v", err)
	}
}

// TestImagesFromAnywhere checks that image_dir: / allows any file, and that what
// is not a file is not waited for.
func TestImagesFromAnywhere(t *testing.T) {
	dir := t.TempDir()
	path, pipe := filepath.Join(dir, "a.png"), filepath.Join(dir, "pipe.png")
	if err := os.WriteFile(path, picture(t, "png", 2, 2), 0o600); err != nil {
		t.Fatal(err)
	}
	l := imageLoader{dir: "/"}
	if m, err := l.named(t.Context(), path); err != nil || m.Media != "image/png" {
		t.Errorf("got %s, %v", m.Media, err)
	}
	if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Skipf("mkfifo: %v: %s", err, out)
	}
	if _, err := l.named(t.Context(), pipe); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a pipe: got %v", err)
	}
}

// TestDarkroom checks that images that are large when decoded wait for each other.
func TestDarkroom(t *testing.T) {
	memory := NewImageMemory()
	bomb := image.Config{ColorModel: color.GrayModel, Width: 14_000, Height: 14_000}
	leave := memory.acquire(bomb)
	memory.acquire(bomb)()
	other := memory.acquire(image.Config{ColorModel: color.RGBAModel, Width: 8_000, Height: 8_000})
	if memory.bytes.TryAcquire(128 << 20) {
		t.Error("there was memory for 580 MB")
	}
	entered := make(chan struct{})
	go func() {
		memory.acquire(image.Config{ColorModel: color.RGBA64Model, Width: 14_000, Height: 14_000})() // alone
		close(entered)
	}()
	leave()
	other()
	<-entered
	if !memory.bytes.TryAcquire(maxDecoded) {
		t.Error("memory was not given back")
	}
	if _, err := shrink(llm.Image{Data: picture(t, "png", 40, 20), Media: "image/png"}, 10, NewImageMemory()); err != nil {
		t.Error(err)
	}
}

func TestShrink(t *testing.T) {
	for _, tt := range []struct {
		kind  string
		w, h  int
		side  int
		media string
		want  image.Point
	}{
		{"png", 40, 20, 10, "image/png", image.Pt(10, 5)},
		{"jpeg", 20, 50, 10, "image/jpeg", image.Pt(4, 10)},
		{"gif", 300, 1, 30, "image/png", image.Pt(30, 1)},
		{"png", 10, 10, 10, "image/png", image.Pt(10, 10)},
	} {
		data := picture(t, tt.kind, tt.w, tt.h)
		l := imageLoader{side: tt.side}
		m, err := l.loaded(data, "x")
		if err != nil {
			t.Fatal(err)
		}
		size, _, err := image.DecodeConfig(bytes.NewReader(m.Data))
		if err != nil || m.Media != tt.media || mediaOf(m.Data) != tt.media || image.Pt(size.Width, size.Height) != tt.want {
			t.Errorf("%+v: got %s of %d by %d, %v", tt, m.Media, size.Width, size.Height, err)
		}
		if tt.w <= tt.side && !bytes.Equal(m.Data, data) {
			t.Errorf("%+v: an image that fits was changed", tt)
		}
	}
	bad := picture(t, "png", 40, 20)
	bad[45] ^= 1
	if _, err := (&imageLoader{side: 5}).loaded(bad, "x.png"); err == nil || !strings.HasPrefix(err.Error(), "x.png cannot be decoded") {
		t.Errorf("got %v", err)
	}
}

// An image whose file is cut short is never sent, wherever it is cut; one to
// which something was added is.
func TestImagesCutShort(t *testing.T) {
	pixel, err := base64.StdEncoding.DecodeString(webp)
	if err != nil {
		t.Fatal(err)
	}
	animated := bytes.Clone(picture(t, "gif", 40, 20))
	animated = append(animated[:len(animated)-1], animated[13+6:]...) // the picture again
	photo := picture(t, "jpeg", 40, 20)
	for name, c := range map[string]struct {
		data []byte
		ends int // bytes that an end may lack, and all is there
	}{
		"PNG": {picture(t, "png", 40, 20), 0}, "JPEG": {photo, 3}, "WebP": {pixel, 0}, // the last byte of what is coded may be padding alone
		"JPEG with fillings": {slices.Concat(photo[:2], []byte{0xff, 0xff}, photo[2:]), 3},
		"GIF":                {picture(t, "gif", 40, 20), 1},
	} {
		for n := 20; n < len(c.data)-c.ends; n++ {
			if _, err := (&imageLoader{}).loaded(c.data[:n], "x"); err == nil || !strings.HasPrefix(err.Error(), "x is cut short: it ends after ") {
				t.Fatalf("%s: got %v of %d of %d bytes, want that it is cut short", name, err, n, len(c.data))
			}
		}
		for _, more := range []string{"", "\x00\x00", "more"} {
			if _, err := (&imageLoader{}).loaded(append(bytes.Clone(c.data), more...), "x"); err != nil {
				t.Errorf("%s with %q behind it: %v", name, more, err)
			}
		}
	}
	for _, data := range [][]byte{photo[:len(photo)-2], animated, animated[:len(animated)-1]} {
		if _, err := (&imageLoader{}).loaded(data, "x"); err != nil {
			t.Errorf("%d bytes that begin with %q: %v", len(data), data[:4], err)
		}
	}
}

// TestShrinkKeepsWhichSideIsUp checks that a photo that lies on its side does so
// afterwards, too.
func TestShrinkKeepsWhichSideIsUp(t *testing.T) {
	turned := []byte("\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00")
	photo := slices.Insert(picture(t, "jpeg", 40, 20), 2, turned...)
	m, err := shrink(llm.Image{Data: photo, Media: "image/jpeg"}, 10, nil)
	if err != nil || !bytes.Equal(exif(m.Data), turned) {
		t.Errorf("got the EXIF %q, %v, want %q", exif(m.Data), err, turned)
	}
	if _, err := jpeg.Decode(bytes.NewReader(m.Data)); err != nil {
		t.Error(err)
	}
	for _, data := range [][]byte{nil, photo[:3], photo[:10], picture(t, "jpeg", 4, 4), []byte("\xff\xd8\xff\xe1\x00\x00")} {
		if got := exif(data); got != nil {
			t.Errorf("%.20q: got %q, want none", data, got)
		}
	}
}

// FuzzCutShort: whatever bytes an image has, looking for its end comes to one, and
// finds it where the picture can be decoded.
func FuzzCutShort(f *testing.F) {
	pixel, err := base64.StdEncoding.DecodeString(webp)
	if err != nil {
		f.Fatal(err)
	}
	for _, data := range [][]byte{picture(f, "png", 4, 2), picture(f, "jpeg", 4, 2), picture(f, "gif", 4, 2), pixel} {
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		media := mediaOf(data)
		missing := (&imageLoader{}).truncated(media, data)
		if missing == "" || media != "image/png" && media != "image/jpeg" {
			return
		}
		if size, _, err := image.DecodeConfig(bytes.NewReader(data)); err != nil || size.Width > 1<<10 || size.Height > 1<<10 {
			return
		}
		if _, _, err := image.Decode(bytes.NewReader(data)); err == nil {
			t.Errorf("%s of %d bytes is said to lack %s, and can be decoded", media, len(data), missing)
		}
	})
}
