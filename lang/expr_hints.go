package lang

import (
	"fmt"
	"regexp"
	"strings"

	"matrix/lang/internal/calc"
)

// foreignNames are names of other languages, by what they are here.
var foreignNames = map[string]string{
	"True": "true", "False": "false", "None": "nil", "null": "nil", "undefined": "nil",
	"length": "len(x)", "size": "len(x)", "count_of": "len(x)", "str": "string(x)", "strip": "trim(x)", "lstrip": "trim(x)",
	"rstrip": "trim(x)", "toLowerCase": "lower(x)", "toUpperCase": "upper(x)", "avg": "mean(x)", "average": "mean(x)",
	"contains": "x contains y", "includes": "x contains y", "startswith": "x startsWith y", "endswith": "x endsWith y",
	"sorted": "sort(x)", "reversed": "reverse(x)", "unique": "uniq(x)", "set": "uniq(x)", "list": "values(x)",
	"dumps": "to_json(x)", "loads": "json(x)", "parse_json": "json(x)", "regex": "find(text, regex)", "match": "find(text, regex)",
	"isinstance": "type(x)", "typeof": "type(x)", "coalesce": "x ?? y", "default": "x ?? y", "get": "x?.field ?? y",
}

// unknownName says that a name is not known, and which may be meant.
func unknownName(name string, known []string) string {
	if own := foreignNames[name]; own != "" {
		return fmt.Sprintf("unknown name %s, did you mean %s?", name, own)
	}
	return "unknown name " + name + calc.DidYouMean(name, known)
}

// turnsField says what to write for turns.ROLE.
func turnsField(name string) string {
	return fmt.Sprintf("turns is the list of all turns, it has no field %s: turn(%[1]q) is the newest turn of role %[1]s", name)
}

// foreignSyntax are ways of writing that other languages have, and what stands for them.
var foreignSyntax = []struct {
	is   *regexp.Regexp
	hint string
}{
	{regexp.MustCompile(`\{\{|\{%`), "this is an expression, not a template: write it without {{ }}"},
	{regexp.MustCompile(`===|!==`), "write == and !="},
	{regexp.MustCompile(`<>`), "write !="},
	{regexp.MustCompile(`\bis\s+not\b`), "write x != nil for x is not None"},
	{regexp.MustCompile(`\bis\b`), "write x == nil for x is None"},
	{regexp.MustCompile(`\bif\b.+\belse\b`), "write condition ? a : b for a if condition else b"},
	{regexp.MustCompile(`\bfor\b.+\bin\b`), "write map(list, expression of #) or filter(list, condition on #) for a loop"},
	{regexp.MustCompile(`(^|[^=!<>])=($|[^=])`), "write == to compare"},
	{regexp.MustCompile(`\bf"|\bf'`), "write a + string(b) for a formatted text"},
}

var quotedTexts = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|'(?:[^'\\\\]|\\\\.)*'|`[^`]*`")

// addHint adds to an error of syntax what to write instead, where the expression is
// written as in another language.
func addHint(src string, e *Error) *Error {
	bare := quotedTexts.ReplaceAllString(src, `""`)
	for _, h := range foreignSyntax {
		if h.is.MatchString(bare) {
			e.Msg = strings.TrimRight(e.Msg, ".") + "; " + h.hint
			return e
		}
	}
	return e
}
