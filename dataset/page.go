package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"codeberg.org/readeck/go-readability/v2"
	"codeberg.org/readeck/go-readability/v2/render"
	"golang.org/x/net/html"
	"golang.org/x/net/html/charset"
)

// page is what a row has of a web page.
type page struct {
	title, language, text string
}

// maxElements is how large a page may be for its main text to be found; of a
// larger one all text is taken.
const maxElements = 100_000

// readPage reads HTML in the charset that its bytes, contentType or they themselves
// name. The text is the main one, without menus and frames; where none is found, all
// that would be seen.
func readPage(content []byte, contentType, address string) (p page, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read as a web page: %v", r)
		}
	}()
	r, err := charset.NewReader(bytes.NewReader(content), contentType)
	if err != nil {
		return p, fmt.Errorf("cannot be read as a web page: %w", err)
	}
	doc, err := html.Parse(r)
	if err != nil {
		return p, fmt.Errorf("cannot be read as a web page: %w", err)
	}
	at, err := url.Parse(address)
	if err != nil || address == "" {
		at = nil
	}
	parser := readability.NewParser()
	parser.MaxElemsToParse = maxElements
	var text strings.Builder
	article, err := parser.ParseDocument(doc, at)
	if err == nil {
		p.title, p.language = article.Title(), article.Language()
		if article.Node != nil {
			err = article.RenderText(&text)
		}
	}
	p.text = strings.TrimSpace(text.String())
	if p.text == "" || err != nil {
		p.text = strings.TrimSpace(render.InnerText(doc))
	}
	if p.title == "" && doc != nil {
		p.title = titleOf(doc)
	}
	p.text, p.title = strings.ToValidUTF8(p.text, "\uFFFD"), strings.ToValidUTF8(p.title, "\uFFFD")
	if p.text == "" && p.title == "" && bytes.IndexByte(content, 0) >= 0 {
		return p, errors.New("is no web page: it holds bytes that are no text")
	}
	return p, nil
}

// titleOf is the text of the first title element.
func titleOf(doc *html.Node) string {
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == "title" && n.FirstChild != nil {
			return strings.Join(strings.Fields(n.FirstChild.Data), " ")
		}
	}
	return ""
}
