package agent

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestReadJUnit(t *testing.T) {
	for name, tt := range map[string]struct{ xml, want, err string }{
		"pytest with files": {`<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">
<testcase classname="tests.test_a.TestX" name="test_one[1-2]" file="tests/test_a.py" line="3"/>
<testcase classname="tests.test_a" name="test_two" file="tests/test_a.py"><failure message="m">t</failure></testcase>
<testcase classname="tests.test_a" name="test_three" file="tests/test_a.py"><skipped/></testcase></testsuite></testsuites>`,
			`{"failed":["tests/test_a.py::test_two"],"passed":["tests/test_a.py::TestX::test_one[1-2]"],"skipped":["tests/test_a.py::test_three"]}`, ""},
		"without files":                  {`<testsuite><testcase classname="pkg.T" name="a"/><testcase name="b"/></testsuite>`, `{"failed":[],"passed":["pkg.T::a","b"],"skipped":[]}`, ""},
		"a test that is there twice":     {`<testsuite><testcase name="a"><error/></testcase><testcase name="a"/></testsuite>`, `{"failed":["a"],"passed":[],"skipped":[]}`, ""},
		"what a test prints is no test":  {`<testsuite><testcase name="a"><system-out>&lt;failure/&gt;</system-out></testcase></testsuite>`, `{"failed":[],"passed":["a"],"skipped":[]}`, ""},
		"a file that was cut":            {`<testsuite><testcase name="a"/><testcase na`, "", "EOF"},
		"another XML":                    {`<html/>`, "", "no JUnit"},
		"no XML":                         {`all 3 tests passed`, "", "no JUnit"},
		"elements without end":           {strings.Repeat("<a>", 1000), "", "too deep"},
		"an entity that is not declared": {`<testsuite><testcase name="&big;"/></testsuite>`, "", "entity"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readJUnit([]byte(tt.xml))
			if err != nil || tt.err != "" {
				if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want an error with %q", err, tt.err)
				}
				return
			}
			if b, _ := json.Marshal(got); string(b) != tt.want {
				t.Errorf("got  %s\nwant %s", b, tt.want)
			}
		})
	}
}

func FuzzReadJUnit(f *testing.F) {
	f.Add([]byte(`<testsuite><testcase classname="a.b" name="c" file="a/b.py"><failure/></testcase></testsuite>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tests, err := readJUnit(b)
		if err == nil && (tests["passed"] == nil || tests["failed"] == nil || tests["skipped"] == nil) {
			t.Errorf("got %v without an error, want three lists", tests)
		}
	})
}
