package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// place is a file or a folder of Go in a page, and what is said to be declared there.
var place = regexp.MustCompile("`((?:[a-z0-9_]+/)*[a-z0-9_]+(?:\\.go)?)`(?: `([A-Za-z]+(?:\\.[A-Za-z]+)?)`)?")

// TestMap checks that each path of architecture.md is there, that the names
// behind a file are declared in it, and that no package is left out.
func TestMap(t *testing.T) {
	b, err := os.ReadFile("architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for n, line := range strings.Split(text, "\n") {
		for _, m := range place.FindAllStringSubmatch(line, -1) {
			path, name := m[1], m[2]
			file := filepath.Join(repository, path)
			if _, err := os.Stat(file); err != nil {
				t.Errorf("architecture.md:%d: there is no %s", n+1, path)
			} else if name != "" && strings.HasSuffix(path, ".go") && !declared(t, file)[name] {
				t.Errorf("architecture.md:%d: %s does not declare %s", n+1, path, name)
			}
		}
	}
	unnamed := map[string]bool{"docs": true, "cmd/matrix": true, "examples/library": true}
	for _, pattern := range []string{"/*/*.go", "/*/*/*.go"} {
		files, err := filepath.Glob(repository + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			dir, err := filepath.Rel(repository, filepath.Dir(file))
			if err != nil {
				t.Fatal(err)
			}
			if !unnamed[dir] && !strings.Contains(text, "`"+dir+"`") {
				unnamed[dir] = true // told of once
				t.Errorf("architecture.md does not name package %s", dir)
			}
		}
	}
}

// declared names what a file declares; methods as Type.Method.
func declared(t *testing.T, file string) map[string]bool {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				typ := d.Recv.List[0].Type
				if star, ok := typ.(*ast.StarExpr); ok {
					typ = star.X
				}
				if id, ok := typ.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			names[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					names[s.Name.Name] = true
				case *ast.ValueSpec:
					for _, id := range s.Names {
						names[id.Name] = true
					}
				}
			}
		}
	}
	return names
}
