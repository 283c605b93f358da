package session

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"matrix/spec"
)

func TestLabels(t *testing.T) {
	got, err := Labels([]string{"gpu=h100", "region=", "arch=own", "cmd=a=b"})
	if err != nil || got["gpu"] != "h100" || got["os"] != runtime.GOOS || got["arch"] != "own" || got["cmd"] != "a=b" || got["host"] == "" {
		t.Errorf("got %v, %v", got, err)
	}
	if v, ok := got["region"]; !ok || v != "" {
		t.Errorf("got region %q, %v, want an empty one", v, ok)
	}
	for given, want := range map[string]string{"gpu": "key=value", "a-b=c": "not a name", "item=x": "something else", "=x": "not a name"} {
		if _, err := Labels([]string{given}); !errors.As(err, new(*spec.UsageError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", given, err, want)
		}
	}
	if _, err := Labels([]string{"a=1", "a=2"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v, want an error: a is given twice", err)
	}
}
