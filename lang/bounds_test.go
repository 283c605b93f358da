package lang

import (
	"errors"
	"runtime"
	"strings"
	"testing"
)

// TestBounds checks that what would become too large is an error with its place,
// before there is any of it.
func TestBounds(t *testing.T) {
	const (
		big  = "1000000000"
		huge = "9223372036854775807"
		text = "('x ' * 1200000)"  // of words
		long = "('x' * 60000000)"  // 60 MB
		many = "([1] * 1000000)"   // a list as long as may be
		each = "([1000000 * 'x'])" // a list of one text
	)
	for _, tt := range []struct{ src, want string }{
		{"'a'|center(" + big + ")", "longer than 64 MiB"},
		{"'a'|center(" + huge + ")", "longer than 64 MiB"},
		{"'a'.center(" + huge + ")", "longer than 64 MiB"},
		{"'a'.ljust(" + big + ", 'é')", "longer than 64 MiB"},
		{"'a'.rjust(" + big + ")", "longer than 64 MiB"},
		{"'a'.zfill(" + big + ")", "longer than 64 MiB"},
		{"'a\tb'.expandtabs(" + huge + ")", "longer than 64 MiB"},
		{"'x\ny'|indent(" + big + ")", "longer than 64 MiB"},
		{"'x\ny'|indent(" + huge + ", true, true)", "longer than 64 MiB"},
		{"('\n' * 1000)|indent('x' * 100000)", "longer than 64 MiB"},
		{"[1]|batch(100000000, 0)", "more than 1048576 elements"},
		{"[1]|batch(" + huge + ", 0)", "more than 1048576 elements"},
		{"[1]|batch(0)", "above 0"},
		{"[1]|slice(" + big + ")", "more than 1048576 elements"},
		{"[1]|slice(" + big + ", 0)", "more than 1048576 elements"},
		{"'x' * " + big, "longer than 64 MiB"},
		{"[1] * " + big, "more than 1048576 elements"},
		{many + " + " + many, "more than 1048576 elements"},
		{long + " ~ " + long, "longer than 64 MiB"},
		{"range(" + big + ")", "more than 100000 elements"},
		{"'%" + big + "d' % 1", "wider than 10000"},
		{"'%." + big + "f' % 1", "wider than 10000"},
		{"'%s%s' % (" + long + ", " + long + ")", "longer than 64 MiB"},
		{"'{:" + big + "}'.format(1)", "not a format"},
		{"'{0}{0}'.format(" + long + ")", "longer than 64 MiB"},
		{text + "|replace('x', 'y' * 1000)", "longer than 64 MiB"},
		{text + ".replace('', 'y' * 1000)", "longer than 64 MiB"},
		{"replace(" + text + ", 'x', 'y' * 1000)", "longer than 64 MiB"},
		{"sub('x' * 100000, 'x', 'y' * 1000)", "longer than 64 MiB"},
		{"sub('x' * 3000, '()' * 500 ~ 'x', 'y')", "matches more than"},
		{"sub('x' * 100000, '(x+)', '$1' * 100000)", "longer than 64 MiB"},
		{"findall('x' * 3000, '()' * 500 ~ 'x')", "matches more than"},
		{"([1] * 100000)|join('x' * 1000)", "longer than 64 MiB"},
		{"('x' * 1000).join(" + text + "|truncate(1000000)|list)", "longer than 64 MiB"},
		{"join([1] * 100000, 'x' * 1000)", "longer than 64 MiB"},
		{text + "|list|length", "more than 1048576 elements"},
		{text + "|join('-')", "more than 1048576 elements"},
		{text + "|batch(2)", "more than 1048576 elements"},
		{text + "|sort", "more than 1048576 elements"},
		{text + "|unique", "more than 1048576 elements"},
		{text + "|map('upper')", "more than 1048576 elements"},
		{text + "|select", "more than 1048576 elements"},
		{text + ".split(' ')", "more than 1048576 elements"},
		{text + ".split()", "more than 1048576 elements"},
		{text + ".rsplit(' ', 3)", "more than 1048576 elements"},
		{"split(" + text + ", ' ')", "more than 1048576 elements"},
		{"words(" + text + ")", "more than 1048576 elements"},
		{"('x\n' * 1200000).splitlines()", "more than 1048576 elements"},
		{"json('[' ~ '0,' * 1200000 ~ '0]')", "more than 1048576 elements"},
		{"(" + each + " * 1000)|tojson", "longer than 64 MiB"},
		{"(" + each + " * 1000)|pprint", "longer than 64 MiB"},
		{"(" + each + " * 1000)|string", "longer than 64 MiB"},
		{"(" + each + " * 1000)|e", "longer than 64 MiB"},
		{"(" + each + " * 1000)|urlencode", "longer than 64 MiB"},
		{"(" + each + " * 1000)|striptags", "longer than 64 MiB"},
		{"(" + each + " * 1000)|wordwrap", "longer than 64 MiB"},
		{"{'a': " + each + " * 1000}|xmlattr", "longer than 64 MiB"},
		{"to_json(" + each + " * 1000)", "computes too much"},
		{"hash(" + each + " * 1000)", "computes too much"},
		{"[1, [2]]|tojson(" + huge + ")", "longer than 64 MiB"},
		{"(" + many + "[:100000])|tojson(1000)", "longer than 64 MiB"},
		{"('<' * 14000000)|e", "longer than 64 MiB"},
		{"('www.a.com ' * 10000)|urlize(rel='x' * 10000)", "longer than 64 MiB"},
		{"('a b ' * 1000000)|wordwrap(1, wrapstring='x' * 1000)", "longer than 64 MiB"},
		{"'abc'|truncate(" + huge + ", end=" + long + " ~ " + long + ")", "longer than 64 MiB"},
	} {
		name, _, _ := strings.Cut(tt.src, "(")
		t.Run(name, func(t *testing.T) {
			src := strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace("{{ " + tt.src + " }}")
			tpl, err := CompileTemplate(src, nil)
			if err != nil {
				t.Fatalf("%s: %v", src, err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			got, err := tpl.Render(nil, nil)
			runtime.ReadMemStats(&after)
			var own *Error
			if !errors.As(err, &own) || own.Column == 0 || !strings.Contains(own.Msg, tt.want) {
				t.Errorf("%s: got %.40q, %v, want an error with its place: %s", src, got, err, tt.want)
			}
			if made := (after.TotalAlloc - before.TotalAlloc) >> 20; made > 600 {
				t.Errorf("%s: took %d MiB of memory, want at most 600", src, made)
			}
		})
	}
}

// TestLargeWidths checks that what is large, but not too large, is there in full.
func TestLargeWidths(t *testing.T) {
	for src, want := range map[string]string{
		"'a'|center(20000)|length":                                       "20000",
		"'a'.zfill(20000)|length":                                        "20000",
		"'x\\ny'|indent(20000)|length":                                   "20003",
		"[1]|batch(20000, 0)|first|length":                               "20000",
		"[1]|slice(20000)|length":                                        "20000",
		"('xxxxxxxx ' * 2000000)|striptags|length":                       "17999999",
		"('x ' * 1000000)|truncate(7)":                                   "x x...",
		"('x ' * 1000000)|first ~ ('x y' * 1000000)|last":                "xy",
		"('x ' * 500000)|wordwrap(100000)|length":                        "999999",
		"('ab' * 500000)|wordwrap(10)|length":                            "1099999",
		"('a-' * 500000)|wordwrap(10)|length":                            "1099999",
		"('ab-cd ' * 1000000).replace('ab', 'x' * 1000000, 1) | length":  "6999998",
		"('xy' * 1000000)[::-1][:3] ~ ('xy' * 1000000)|reverse|truncate": "yxy" + strings.Repeat("yx", 126) + "...",
		"[1]|tojson(indent=2000)|length":                                 "2005",
	} {
		tpl, err := CompileTemplate("{{ "+src+" }}", nil)
		if err != nil {
			t.Errorf("%s: %v", src, err)
			continue
		}
		if got, err := tpl.Render(nil, nil); err != nil || got != want {
			t.Errorf("%s: got %.300q, %v, want %q", src, got, err, want)
		}
	}
}

// TestBlocksInBlocks checks that the texts of all open blocks have one bound.
func TestBlocksInBlocks(t *testing.T) {
	tpl, err := CompileTemplate("{% macro m(n) %}{{ 'x' * 30000000 }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{% set x = m(50) %}", nil)
	if err != nil {
		t.Fatal(err)
	}
	var own *Error
	if _, err := tpl.Render(nil, nil); !errors.As(err, &own) || !strings.Contains(own.Msg, "longer than 64 MiB") {
		t.Errorf("got %v, want an error of the text's length", err)
	}
}
