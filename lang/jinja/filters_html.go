package jinja

import (
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"matrix/lang/internal/calc"
)

// Filters of HTML, of links, and what JSON is made by.

var htmlFilters = map[string]filter{
	"e": {raw: escape}, "escape": {raw: escape},
	"safe":        ofText(0, nil, func(s string, _ *boundArgs) any { return safe(s) }),
	"forceescape": ofText(0, nil, escaped),
	"striptags": ofText(0, nil, func(s string, g *boundArgs) any {
		return html.UnescapeString(strings.Join(strings.Fields(anyTag.ReplaceAllString(comment.ReplaceAllString(s, ""), "")), " "))
	}),
	"urlencode": {notNull: true, f: urlEncode},
	"xmlattr":   {max: 1, names: []string{"autospace"}, notNull: true, f: xmlAttributes},
	"urlize":    notNull(ofText(5, []string{"trim_url_limit", "nofollow", "target", "rel", "extra_schemes"}, urlize)),
}

var (
	comment = regexp.MustCompile(`(?s)<!--.*?-->`)
	anyTag  = regexp.MustCompile(`(?s)<.*?>`)
)

var entities = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func escape(_ *rendering, in any, a *Args) (any, error) {
	if s, ok := in.(safe); ok {
		return s, nil
	}
	g, err := bind(a, nil, 0, 0)
	if err != nil {
		return nil, err
	}
	return textual(escaped)(nil, in, g)
}

func escaped(s string, g *boundArgs) any {
	n := 0
	for i := range len(s) {
		if strings.IndexByte(`&<>'"`, s[i]) >= 0 {
			n++
		}
	}
	if g.err = calc.Fits(len(s), n, 4); g.err != nil {
		return nil
	}
	return safe(entities.Replace(s))
}

func quote(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

// urlEncode is a text as part of an address, or the fields of an object, or pairs,
// as its query.
func urlEncode(_ *rendering, in any, _ *boundArgs) (any, error) {
	s, err := show(in)
	if err == nil {
		err = calc.Fits(0, len(s), 3)
	}
	_, isText := in.(string)
	fields, _, isObject := fieldsOf(in)
	if err != nil || !isObject && !isList(in) || isText {
		return strings.ReplaceAll(quote(s), "%2F", "/"), err
	}
	var all []string
	one := func(k, v any) error {
		key, err := show(k)
		if err != nil {
			return err
		}
		value, err := show(v)
		all = append(all, url.QueryEscape(key)+"="+url.QueryEscape(value))
		return err
	}
	if isObject {
		for k, v := range fields {
			if err := one(k, v); err != nil {
				return nil, err
			}
		}
	} else {
		items, _ := itemsOf(in)
		for _, item := range items {
			pair, _ := itemsOf(bare(item))
			if len(pair) != 2 {
				return nil, fmt.Errorf("want pairs, got %s", calc.Operand(bare(item)))
			}
			if err := one(pair[0], pair[1]); err != nil {
				return nil, err
			}
		}
	}
	return strings.Join(all, "&"), nil
}

// xmlAttributes are the fields of an object that are something, as attributes.
func xmlAttributes(_ *rendering, in any, g *boundArgs) (any, error) {
	fields, _, ok := fieldsOf(in)
	if !ok {
		return nil, fmt.Errorf("want an object, got %s", calc.Operand(in))
	}
	var b strings.Builder
	if g.value(0) == nil || g.flag(0) {
		b.WriteByte(' ')
	}
	for k, v := range fields {
		key, err := show(k)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(key, " />=\t\n\r\f\v") {
			return nil, fmt.Errorf("%q cannot be the name of an attribute", key)
		}
		if bare(v) == nil {
			continue
		}
		value, err := show(v)
		if err == nil {
			err = calc.Fits(b.Len()+len(key)+len(value), 5, len(value))
		}
		if err != nil {
			return nil, err
		}
		if b.Len() > 1 {
			b.WriteByte(' ')
		}
		b.WriteString(entities.Replace(key) + `="` + entities.Replace(value) + `"`)
	}
	if b.Len() == 1 {
		return safe(""), nil
	}
	return safe(b.String()), nil
}

var (
	webAddress = regexp.MustCompile(`(?i)^(https?://|www\.)(([\w%-]+\.)+[a-z]{2,63}|[\w%.-]+)(:[0-9]+)?([/?#]\S*)?$`)
	bareDomain = regexp.MustCompile(`(?i)^([\w%-]{2,63}\.)+(com|net|int|edu|gov|org|info|mil)([/?#:]\S*)?$`)
	mail       = regexp.MustCompile(`^\S+@\w[\w.-]*\.\w+$`)
	blanks     = regexp.MustCompile(`\s+`)
)

// urlize makes links of what in a text is an address.
func urlize(s string, g *boundArgs) any {
	limit := g.number(0, -1)
	rel := map[string]bool{"noopener": true}
	for _, word := range strings.Fields(g.text(3, "")) {
		rel[word] = true
	}
	if g.flag(1) {
		rel["nofollow"] = true
	}
	attributes := ""
	if len(rel) > 0 {
		attributes = ` rel="` + entities.Replace(strings.Join(keysOf(rel), " ")) + `"`
	}
	if target := g.text(2, ""); target != "" {
		attributes += ` target="` + entities.Replace(target) + `"`
	}
	var schemes []string
	if extra, ok := itemsOf(g.value(4)); ok {
		for _, e := range extra {
			if scheme, ok := bare(e).(string); ok {
				schemes = append(schemes, scheme)
			}
		}
	}
	n := strings.Count(s, ".") + strings.Count(s, ":") + strings.Count(s, "@")
	if g.err == nil {
		g.err = calc.Fits(5*len(s), n, 100+len(attributes))
	}
	if g.err != nil {
		return nil
	}
	var b strings.Builder
	at := 0
	for _, gap := range append(blanks.FindAllStringIndex(s, -1), []int{len(s), len(s)}) {
		word := strings.TrimLeft(s[at:gap[0]], "(<")
		before := s[at : gap[0]-len(word)]
		end := strings.TrimRight(word, ".,)>")
		word, after := end, word[len(end):]
		for strings.Count(word, "(") > strings.Count(word, ")") && strings.HasPrefix(after, ")") {
			word, after = word+")", after[1:]
		}
		address, marks := "", attributes
		switch {
		case strings.HasPrefix(strings.ToLower(word), "www.") && webAddress.MatchString(word), bareDomain.MatchString(word):
			address = "https://" + word
		case webAddress.MatchString(word):
			address = word
		case strings.HasPrefix(word, "mailto:") && mail.MatchString(word[len("mailto:"):]):
			address, marks = word, ""
			word = word[len("mailto:"):]
		case mail.MatchString(word) && !strings.ContainsAny(word, ":/"):
			address, marks = "mailto:"+word, ""
		case slices.ContainsFunc(schemes, func(scheme string) bool { return len(word) > len(scheme) && strings.HasPrefix(word, scheme) }):
			address = word
		}
		b.WriteString(entities.Replace(before))
		if address == "" {
			b.WriteString(entities.Replace(word))
		} else {
			shown := word
			if limit >= 0 && len(head(word, limit)) < len(word) && marks != "" {
				shown = head(word, limit) + "..."
			}
			b.WriteString(`<a href="` + entities.Replace(address) + `"` + marks + `>` + entities.Replace(shown) + `</a>`)
		}
		b.WriteString(entities.Replace(after) + s[gap[0]:gap[1]])
		at = gap[1]
	}
	return safe(b.String())
}
