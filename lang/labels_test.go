package lang

import (
	"errors"
	"strings"
	"testing"
)

func TestLabelExpr(t *testing.T) {
	labels := map[string]string{"gpu": "h100", "region": "eu", "gpus": "8"}
	for _, tt := range []struct {
		src  string
		want bool
	}{
		{`gpu == "h100"`, true},
		{`gpu == "a100"`, false},
		{`gpu != "a100"`, true},
		{`gpu in ["h100", "a100"] and region == "eu"`, true},
		{`gpu in params.gpus`, true},
		{`zone == "b"`, false},
		{`zone != "b"`, true},
		{`zone == nil`, true},
		{`gpu != nil`, true},
		{`zone startsWith "eu-"`, false},
		{`region startsWith "e"`, true},
		{`int(gpus ?? 0) >= 4`, true},
		{`int(cores ?? 0) >= 4`, false},
		{`zone > "a"`, false},
		{`let g = gpu; g == "h100" or g == "a100"`, true},
		{`not (gpu == "h100")`, false},
		{`lower(gpu) matches "^h[0-9]+$"`, true},
		{`params.any`, true},
	} {
		e, err := CompileLabelExpr(tt.src, Params{"gpus": []any{"h100"}, "any": true})
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if got, err := e.Match(labels); err != nil || got != tt.want {
			t.Errorf("%s: got %v, %v, want %v", tt.src, got, err, tt.want)
		}
	}
}

func TestLabelExprErrors(t *testing.T) {
	for _, tt := range []struct {
		src, want    string
		line, column int
	}{
		{``, "the expression is empty", 0, 0},
		{`gpu = "h100"`, "", 1, 5},
		{`gpu ==`, "", 1, 6},
		{`gpus >= 4`, "int(gpus ?? 0)", 1, 6},
		{"region == \"eu\" and\n  gpus == 4", `gpus == "4"`, 2, 8},
		{`1.5 < version`, "float(version ?? 0)", 1, 5},
		{`fast == true`, `fast == "true"`, 1, 6},
		{`gpus in [4, 8]`, `gpus == "4"`, 1, 6},
		{`labels.gpu == "h100"`, "stand by their names alone", 1, 8},
		{`item.gpu == "h100"`, "item is of a task", 1, 1},
		{`rounds("judge") > 1`, "rounds() is of a task", 1, 1},
		{`gpu`, "true or false", 0, 0},
		{`int(gpus) > 4`, "without these labels", 0, 0},
		{`params.nothing == gpu`, "params has no nothing", 1, 8},
		{`nosuch(gpu)`, "unknown function nosuch", 1, 1},
	} {
		_, err := CompileLabelExpr(tt.src, Params{})
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Error(), tt.want) || e.Line != tt.line || e.Column != tt.column {
			t.Errorf("%s: got %#v, want %q at %d:%d", tt.src, err, tt.want, tt.line, tt.column)
		}
	}
}

func TestCheckLabel(t *testing.T) {
	for name, want := range map[string]bool{
		"gpu": true, "GPU_2": true, "_x": true, "": false, "2gpu": false, "a-b": false, "a.b": false,
		"item": false, "in": false, "len": false, "rounds": false, "true": false,
	} {
		if err := CheckLabel(name); (err == nil) != want {
			t.Errorf("%q: got %v, want %v", name, err, want)
		}
	}
}
