package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// hidden stands for what must not be shown.
const hidden = "***"

// secretKeys are the keys whose values are never shown, whatever type the
// config around them has.
var secretKeys = []string{"api_key", "token", "password", "secret", "authorization", "headers"}

// secretName matches names of environment variables and keys of a service's own
// that hold secrets.
var secretName = regexp.MustCompile(`(?i)(^|[_-])(key|token|secret|passw(or)?d|passwd|pwd|credentials?|auth)$|^apikey$`)

// namesSecret reports whether a variable or a key of that name holds a secret. PWD
// is where a shell stands.
func namesSecret(name string) bool { return name != "PWD" && secretName.MatchString(name) }

// isPlace reports whether text is the path of a file or a folder: what it is called is
// no secret, wherever it was told.
func isPlace(text string) bool {
	if !filepath.IsAbs(text) {
		return false
	}
	_, err := os.Stat(text)
	return err == nil
}

// userInfo is the password in a URL, unless a reference is all of it.
var userInfo = regexp.MustCompile(`(://)[^/@\s:]*:[^/@\s]*[^/@\s\x{100000}-\x{10FFFD}][^/@\s]*@`)

// query is that of a URL, and keyInQuery a secret in it, by its name.
var (
	query      = regexp.MustCompile(`://[^\s?#]*\?[^\s#]+`)
	keyInQuery = regexp.MustCompile(`(?i)([?&](?:[^=&?]*(?:key|token|secret|passw|sig|auth)[^=&?]*|code)=)[^&\x{100000}-\x{10FFFD}][^&]*`)
)

// bare is text with *** for what is secret in its URLs.
func bare(text string) string {
	text = userInfo.ReplaceAllString(text, "${1}"+hidden+":"+hidden+"@")
	return query.ReplaceAllStringFunc(text, func(url string) string {
		return keyInQuery.ReplaceAllString(url, "${1}"+hidden)
	})
}

var fromEnv = regexp.MustCompile(`\$\{(oc\.)?env:[^}]*\}`)

// bareOpen is bare for a text with references, which stay.
func bareOpen(open string) string {
	const first = 0x100000 // for private use
	refs := fromEnv.FindAllString(open, -1)
	n := 0
	text := bare(fromEnv.ReplaceAllStringFunc(open, func(string) string { n++; return string(rune(first + n - 1)) }))
	for i, ref := range refs {
		text = strings.ReplaceAll(text, string(rune(first+i)), ref)
	}
	return text
}

// YAML prints the config: loaded again it decodes to the same values. With
// redact, what comes from the environment is shown as its ${env:NAME}, paths
// apart, and other secrets as ***.
// Secret and path fields are known once they have been decoded, so print after
// that.
func (t *Tree) YAML(redact bool) []byte { return t.yaml(&printer{redact: redact}) }

// YAMLFor prints the config redacted, for a file in dir. Paths below root are
// written relative to dir where dir is below root, too, so that they hold when all
// that is in root moves.
func (t *Tree) YAMLFor(dir, root string) []byte {
	w := &printer{redact: true}
	if within(root, dir) {
		w.dir, w.top = dir, root
	}
	return t.yaml(w)
}

// within reports whether path is root, or below it.
func within(root, path string) bool {
	rel, err := filepath.Rel(root, path)
	return err == nil && filepath.IsLocal(rel)
}

func (t *Tree) yaml(w *printer) []byte {
	if w.redact {
		w.gather(t.root)
	}
	if len(t.root.fields) == 0 {
		return []byte("{}\n")
	}
	w.fields(t.root, 0, false)
	return []byte(w.b.String())
}

// Hide is a word of a command line as it may be shown: with *** for a secret that
// it sets as an override, or has in a URL.
func Hide(word string) string {
	key, value, ok := strings.Cut(word, "=")
	if !ok || strings.Contains(value, "${") {
		return bare(word)
	}
	steps := strings.Split(strings.TrimLeft(key, "+"), ".")
	own := slices.ContainsFunc(steps, func(s string) bool { return s == "env" || s == "extra_body" })
	if slices.ContainsFunc(steps, isSecret) || own && namesSecret(steps[len(steps)-1]) {
		return key + "=" + hidden
	}
	return bare(word)
}

// Secret is a text of a config that must not be shown, what is shown for it, and
// the name under which it stands.
type Secret struct{ Text, Shown, Key string }

// Secrets are the values that must not be shown where a service or a program has
// been given them: secrets, what comes from the environment into a map of which no
// type says what it holds, and variables of the environment with names of secrets;
// paths of files and folders apart, but where a secret is one.
// Secret fields are known once they have been decoded.
func (t *Tree) Secrets() []Secret {
	var all []Secret
	t.root.scalars("", "", false, func(n *node, _, key string, secret bool) {
		if n.text == "" || n.text == hidden || n.kind == Bool || !secret && (!n.loose || n.open == "" || isPlace(n.text)) {
			return
		}
		shown := hidden
		if secret && n.env != "" {
			shown = n.env
		} else if !secret {
			shown = n.open
		}
		all = append(all, Secret{n.text, shown, key})
		if i := strings.LastIndexByte(n.text, ' '); secret && len(n.text)-i > 8 { // Bearer ...
			all = append(all, Secret{n.text[i+1:], hidden, ""})
		}
	})
	for _, kv := range os.Environ() {
		if name, v, _ := strings.Cut(kv, "="); len(v) >= 16 && namesSecret(name) && !isPlace(v) {
			all = append(all, Secret{v, "${env:" + name + "}", ""})
		}
	}
	slices.SortStableFunc(all, func(a, b Secret) int { return len(b.Text) - len(a.Text) })
	return all
}

type printer struct {
	b       strings.Builder
	redact  bool
	secrets []string // the values of secrets, wherever else they turn up
	dir     string   // paths below top are written relative to it; empty: all are absolute
	top     string
	raw     map[*node]string // what stands for values, references in it included; see Portable
}

func isSecret(key string) bool { return slices.Contains(secretKeys, strings.ToLower(key)) }

// gather collects the texts of all secrets.
func (w *printer) gather(n *node) {
	n.scalars("", "", false, func(n *node, _, _ string, secret bool) {
		if !secret || len(n.text) < 6 || n.text == hidden || n.env == n.text {
			return
		}
		w.secrets = append(w.secrets, n.text)
		if i := strings.LastIndexByte(n.text, ' '); len(n.text)-i > 8 { // Bearer ...
			w.secrets = append(w.secrets, n.text[i+1:])
		}
	})
}

func (w *printer) indent(n int) { w.b.WriteString(strings.Repeat(" ", n)) }

func (w *printer) fields(n *node, indent int, secret bool) {
	for i, e := range n.fields {
		if i > 0 || indent == 0 {
			w.indent(indent)
		}
		w.b.WriteString(quote(e.name, 0, true))
		w.b.WriteByte(':')
		w.value(e.node, indent, secret || isSecret(e.name))
	}
}

// value prints n behind its key, and ends the line.
func (w *printer) value(n *node, indent int, secret bool) {
	secret = secret || n.secret
	switch {
	case n.kind == Map && len(n.fields) > 0:
		w.b.WriteByte('\n')
		w.indent(indent + 2)
		w.fields(n, indent+2, secret)
	case n.kind == List && len(n.items) > 0:
		w.b.WriteByte('\n')
		w.list(n, indent+2, secret)
	default:
		w.b.WriteByte(' ')
		w.b.WriteString(w.scalar(n, indent, secret))
		w.b.WriteByte('\n')
	}
}

func (w *printer) list(n *node, indent int, secret bool) {
	for _, item := range n.items {
		w.indent(indent)
		w.b.WriteByte('-')
		switch {
		case item.kind == Map && len(item.fields) > 0:
			w.b.WriteByte(' ')
			w.fields(item, indent+2, secret || item.secret)
		default:
			w.value(item, indent, secret)
		}
	}
}

func (w *printer) scalar(n *node, indent int, secret bool) string {
	if text, ok := w.raw[n]; ok {
		return quote(text, indent, false)
	}
	switch {
	case n.kind == Map:
		return "{}"
	case n.kind == List:
		return "[]"
	case n.err != nil: // the variable is missing: as it was written
		switch {
		case n.env == "":
			return quote(hidden, 0, false)
		case secret || n.secret:
			return quote(n.env, 0, false)
		}
		return quote(n.open, 0, false)
	case n.kind == Null && !(w.redact && n.open != "" && !n.path):
		return "null"
	}
	text, raw := n.text, false
	if w.redact {
		text, raw = w.shown(n, secret)
	}
	if n.kind != String && text == n.text {
		return text
	}
	if !raw {
		text = escapeRefs(text)
	}
	return quote(text, indent, false)
}

// shown is n's text less secrets. raw is true where it has references to keep.
func (w *printer) shown(n *node, secret bool) (text string, raw bool) {
	safe := func() (string, bool) {
		if n.env != "" {
			return n.env, true
		}
		return hidden, false
	}
	if secret && (n.text != "" || n.env != "") {
		return safe()
	}
	if n.open != "" && !n.path { // a path is found again from wherever it is printed
		text = n.open
		for _, s := range w.secrets {
			text = strings.ReplaceAll(text, escapeRefs(s), hidden)
		}
		return bareOpen(text), true
	}
	text = n.text
	if n.path && w.dir != "" && filepath.IsAbs(text) && within(w.top, text) {
		text = relative(w.dir, text)
	}
	for _, s := range w.secrets {
		text = strings.ReplaceAll(text, s, hidden)
	}
	return bare(text), false
}

var reference = regexp.MustCompile(`(\\*)\$\{`)

// escapeRefs writes a text so that nothing in it is a reference.
func escapeRefs(s string) string { return reference.ReplaceAllString(s, `$1$1\${`) }

var plainText = regexp.MustCompile(`^[\pL_/][\pL\pN_./+=()<>%* @-]*$`)

// quote writes a text as a YAML scalar: plain where it is safe, as a block
// where it has several lines.
func quote(s string, indent int, key bool) string {
	if plainText.MatchString(s) && len(s) < 1000 && !strings.HasSuffix(s, " ") && plainKind(s) == String &&
		!slices.Contains([]string{"yes", "no", "on", "off"}, strings.ToLower(s)) {
		return s
	}
	if !key && strings.Contains(s, "\n") && isBlock(s) {
		head := "|"
		if !strings.HasSuffix(s, "\n") {
			head = "|-"
		}
		pad := "\n" + strings.Repeat(" ", indent+2)
		lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
		for _, l := range lines {
			if l == "" {
				head += "\n"
			} else {
				head += pad + l
			}
		}
		return head
	}
	simple := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	if simple && strings.ContainsAny(s, `"\`) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return strconv.Quote(s)
}

// isBlock reports whether a text of several lines is safe as a block.
func isBlock(s string) bool {
	if strings.HasSuffix(s, "\n\n") || s[0] == ' ' || s[0] == '\n' {
		return false
	}
	for _, l := range strings.Split(s, "\n") {
		if strings.TrimRightFunc(l, unicode.IsSpace) != l ||
			strings.IndexFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			return false
		}
	}
	return true
}

// display is a value on one line, for messages and for comparing.
func display(n *node) string {
	switch n.kind {
	case Null:
		return "null"
	case String:
		return strconv.Quote(n.text)
	case List:
		var parts []string
		for _, item := range n.items {
			parts = append(parts, display(item))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case Map:
		var parts []string
		for _, e := range n.fields {
			parts = append(parts, e.name+": "+display(e.node))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return n.text
}
