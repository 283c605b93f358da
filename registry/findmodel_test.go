package registry_test

import (
	"os"
	"path/filepath"
	"testing"

	"matrix/registry"
)

func TestFindModel(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "one.yaml"), []byte("models: {a: {base_url: 'http://x'}}\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OPENAI_API_KEY", "sk-of-the-environment")
	t.Setenv("GROQ_API_KEY", "gsk-of-the-environment")
	for _, tt := range []struct {
		arg, name, path, key, want string
	}{
		{"http://h:1/v1?a=b", "", "models.model", "base_url", "http://h:1/v1?a=b"},
		{"http://h:1", "m", "models.model", "model", "m"},
		{"anthropic:claude", "", "models.model", "model", "claude"},
		{"openrouter:a/b:free", "", "models.model", "model", "a/b:free"},
		{"sim:70b", "", "models.model", "preset", "70b"},
		{"sim:70b", "mine", "models.model", "model", "mine"},
		{"sagemaker:end", "", "models.model", "endpoint", "end"},
		{"openai:gpt-4o", "", "models.model", "base_url", "https://api.openai.com/v1"},
		{"openai:gpt-4o", "", "models.model", "api_key", "sk-of-the-environment"},
		{"groq:llama-3.3-70b", "", "models.model", "model", "llama-3.3-70b"},
		{"scripted:${x} 012", "", "models.model", "reply", "${x} 012"},
		{filepath.Join(dir, "one.yaml"), "", "models.a", "base_url", "http://x"},
	} {
		_, s, err := registry.New().FindModel(tt.arg, tt.name)
		if err != nil {
			t.Errorf("%s: %v", tt.arg, err)
			continue
		}
		var got string
		if err := s.Get(tt.key).Decode(&got); err != nil || got != tt.want || s.Path() != tt.path {
			t.Errorf("%s: got %s %q at %s (%v), want %q at %s", tt.arg, tt.key, got, s.Path(), err, tt.want, tt.path)
		}
	}
}
