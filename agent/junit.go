package agent

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxJUnit     = 16 << 20 // bytes of a file
	maxTests     = 100_000
	maxJUnitDeep = 64
)

// readJUnit reads which tests passed, failed or were skipped, by name, out of a JUnit XML
// file: lists under passed, failed and skipped. A test that ended with an error failed. One
// that is there several times (retries; a failure and an error behind it) counts once, as
// the worst of them.
func readJUnit(b []byte) (map[string]any, error) {
	if len(b) > maxJUnit {
		return nil, fmt.Errorf("%d bytes are too many, %d are read", len(b), maxJUnit)
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // names are ASCII in all that is seen
	var order []string
	ends := map[string]int{} // index in junitEnds
	depth, suites := 0, 0
	name, end := "", 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if depth++; depth > maxJUnitDeep {
				return nil, errors.New("its elements are nested too deep")
			}
			switch tok.Name.Local {
			case "testsuite", "testsuites":
				suites++
			case "testcase":
				name, end = testName(tok.Attr), 0
			case "skipped":
				end = max(end, 1)
			case "failure", "error":
				end = 2
			}
		case xml.EndElement:
			depth--
			if tok.Name.Local != "testcase" {
				break
			}
			if _, ok := ends[name]; !ok {
				if order = append(order, name); len(order) > maxTests {
					return nil, fmt.Errorf("it has more than %d tests", maxTests)
				}
			}
			ends[name] = max(ends[name], end)
			name, end = "", 0
		}
	}
	if suites == 0 {
		return nil, errors.New("it has no testsuite: it is no JUnit XML")
	}
	lists := [3][]any{{}, {}, {}}
	for _, n := range order {
		lists[ends[n]] = append(lists[ends[n]], n)
	}
	return map[string]any{"passed": lists[0], "skipped": lists[1], "failed": lists[2]}, nil
}

// testName is the name of a test as people write it: of pytest, with the file named
// (junit_family=xunit1), FILE::CLASS::NAME; else CLASSNAME::NAME.
func testName(attrs []xml.Attr) string {
	at := map[string]string{}
	for _, a := range attrs {
		at[a.Name.Local] = a.Value
	}
	name, class, file := at["name"], at["classname"], at["file"]
	if module, ok := strings.CutSuffix(file, ".py"); ok {
		within, ok := strings.CutPrefix(class, strings.ReplaceAll(module, "/", "."))
		if parts := strings.FieldsFunc(within, func(r rune) bool { return r == '.' }); ok {
			return strings.Join(append(append([]string{file}, parts...), name), "::")
		}
	}
	if class == "" {
		return name
	}
	return class + "::" + name
}
