package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// lenient is an object of which what is missing is absent, as services have it that
// render chat templates.
type lenient struct{ *Dict }

func (l lenient) Keys() []string { return l.names() }
func (l lenient) Plain() any     { v, _ := Plain(l.Dict); return v }

func (l lenient) Get(key string) (any, bool) { return l.get(key) }

func (lenient) Missing(any) (any, error) { return Absent, nil }

// lenientAll is v with all objects in it lenient.
func lenientAll(v any) any {
	switch v := v.(type) {
	case *List:
		for i, e := range v.items {
			v.items[i] = lenientAll(e)
		}
	case *Dict:
		for k, e := range v.all {
			_ = v.set(k, lenientAll(e))
		}
		return lenient{v}
	}
	return v
}

// TestChatTemplates compares with what Jinja2 itself makes of chat templates as
// models have them: ours, which have what those have, and those in the folder that
// MATRIX_CHAT_TEMPLATES names. testdata/render.py wrote it down.
func TestChatTemplates(t *testing.T) {
	raw, err := os.ReadFile("testdata/chat/chats.json")
	if err != nil {
		t.Fatal(err)
	}
	var chats []json.RawMessage
	if err := json.Unmarshal(raw, &chats); err != nil {
		t.Fatal(err)
	}
	folders := []string{"testdata/chat"}
	if more := os.Getenv("MATRIX_CHAT_TEMPLATES"); more != "" {
		folders = append(folders, more)
	}
	for _, folder := range folders {
		raw, err := os.ReadFile(filepath.Join(folder, "want.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want map[string][]*string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		for name, texts := range want {
			t.Run(name, func(t *testing.T) {
				src, err := os.ReadFile(filepath.Join(folder, name))
				if err != nil {
					t.Fatal(err)
				}
				for i, text := range texts {
					got, err := renderChat(string(src), chats[i])
					var own *Error
					switch {
					case text == nil && (!errors.As(err, &own) || own.Column == 0):
						t.Errorf("chat %d: got %q, %v, want an error with its place", i, got, err)
					case text != nil && err != nil && folder != folders[0] && strings.Contains(err.Error(), " has no "):
						t.Logf("chat %d: %v: what is missing is an error here", i, err)
					case text != nil && (err != nil || got != *text):
						t.Errorf("chat %d: got %v\n%s\nwant\n%s", i, err, got, *text)
					}
				}
			})
		}
	}
}

func renderChat(src string, chat []byte) (string, error) {
	env := values{
		"raise_exception": Func(func(a *Args) (any, error) {
			msg, _ := show(a.List[0])
			return nil, errors.New(msg)
		}),
		"strftime_now": Func(func(a *Args) (any, error) {
			layout := strings.NewReplacer("%d", "02", "%b", "Jan", "%B", "January", "%Y", "2006", "%m", "01").Replace(a.List[0].(string))
			return time.Date(2024, 7, 26, 0, 0, 0, 0, time.UTC).Format(layout), nil
		}),
	}
	for k, v := range decoded(chat).(*Dict).all {
		env[k.(string)] = lenientAll(v)
	}
	for {
		got, err := render(src, env)
		var e *Error
		if !errors.As(err, &e) || e.Name == "" {
			return got, err
		}
		env[e.Name] = Absent // as what nobody has set
	}
}
