package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"matrix/internal/config"
	"matrix/spec"
)

// write makes a folder of files from "name", "content" pairs and goes there.
func write(t testing.TB, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		full := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return dir
}

func load(t testing.TB, overrides ...string) *config.Tree {
	t.Helper()
	tree, err := config.Load(spec.Run{}, "config.yaml", overrides)
	if err != nil {
		t.Fatalf("load %q: %v", overrides, err)
	}
	return tree
}

// plain is a tree as maps, lists and scalars.
func plain(t testing.TB, tree *config.Tree) any {
	t.Helper()
	var v any
	if err := tree.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

type m = map[string]any

func TestCompose(t *testing.T) {
	files := []string{
		"db/mysql.yaml", "driver: mysql\nport: 3306\n",
		"db/pg.yaml", "driver: pg\nport: 5432\npool: {size: 1}\n",
		"db/small.yaml", "pool: {size: 2, idle: 1}\n",
		"db/nested.yaml", "defaults: [pg, _self_]\nport: 1\n",
		"base.yaml", "db: {port: 9}\nx: base\nlist: [1, 2]\n",
		"exp/fast.yaml", "# @package _global_\ndefaults:\n  - override /db: pg\nx: fast\n",
		"server/apache.yaml", "defaults:\n  - site: a\nname: apache\n",
		"server/site/a.yaml", "host: a\n",
		"server/site/b.yaml", "host: b\n",
		"empty/none.yaml", "",
	}
	tests := []struct {
		name, config string
		overrides    []string
		want         m
	}{
		{"group", "defaults: [{db: mysql}]\nx: 1\n", nil, m{"db": m{"driver": "mysql", "port": 3306}, "x": 1}},
		{"self is last", "defaults: [{db: mysql}]\ndb: {port: 1}\n", nil, m{"db": m{"driver": "mysql", "port": 1}}},
		{"self first", "defaults: [_self_, {db: mysql}]\ndb: {port: 1}\n", nil, m{"db": m{"driver": "mysql", "port": 3306}}},
		{"plain name", "defaults: [base]\nlist: [3]\n", nil, m{"db": m{"port": 9}, "x": "base", "list": []any{3}}},
		{"command line chooses", "defaults: [{db: mysql}]\n", []string{"db=pg"}, m{"db": m{"driver": "pg", "port": 5432, "pool": m{"size": 1}}}},
		{"several options", "defaults: [{db: [pg, small]}]\n", nil, m{"db": m{"driver": "pg", "port": 5432, "pool": m{"size": 2, "idle": 1}}}},
		{"several on the command line", "defaults: [{db: mysql}]\n", []string{"db=[pg, small]"}, m{"db": m{"driver": "pg", "port": 5432, "pool": m{"size": 2, "idle": 1}}}},
		{"nested", "defaults: [{db: nested}]\n", nil, m{"db": m{"driver": "pg", "port": 1, "pool": m{"size": 1}}}},
		{"package", "defaults: [{db@a.b: mysql}]\n", nil, m{"a": m{"b": m{"driver": "mysql", "port": 3306}}}},
		{"global package", "defaults: [{db@_global_: mysql}]\n", nil, m{"driver": "mysql", "port": 3306}},
		{"here", "defaults: [{db@_here_: mysql}]\n", nil, m{"driver": "mysql", "port": 3306}},
		{"package chosen", "defaults: [{db@a: mysql}]\n", []string{"db@a=small"}, m{"a": m{"pool": m{"size": 2, "idle": 1}}}},
		{"two packages", "defaults: [{db@a: small}, {db@b: small}]\n", []string{"b.pool.size=7"}, m{"a": m{"pool": m{"size": 2, "idle": 1}}, "b": m{"pool": m{"size": 7, "idle": 1}}}},
		{"header and override", "defaults: [{db: mysql}, {exp: fast}]\n", nil, m{"db": m{"driver": "pg", "port": 5432, "pool": m{"size": 1}}, "x": "fast"}},
		{"command line beats override", "defaults: [{db: mysql}, {exp: fast}]\n", []string{"db=small"}, m{"db": m{"pool": m{"size": 2, "idle": 1}}, "x": "fast"}},
		{"experiment added", "defaults: [{db: mysql}]\nx: 1\n", []string{"+exp=fast"}, m{"db": m{"driver": "pg", "port": 5432, "pool": m{"size": 1}}, "x": 1}},
		{"nested group", "defaults: [{server: apache}]\n", nil, m{"server": m{"site": m{"host": "a"}, "name": "apache"}}},
		{"nested group chosen", "defaults: [{server: apache}]\n", []string{"server/site=b"}, m{"server": m{"site": m{"host": "b"}, "name": "apache"}}},
		{"optional", "defaults: [{optional db: oracle}]\nx: 1\n", nil, m{"x": 1}},
		{"null", "defaults: [{db: null}]\nx: 1\n", nil, m{"x": 1}},
		{"group left out", "defaults: [{db: mysql}]\nx: 1\n", []string{"~db"}, m{"x": 1}},
		{"added", "x: 1\n", []string{"+db=small"}, m{"x": 1, "db": m{"pool": m{"size": 2, "idle": 1}}}},
		{"empty option", "defaults: [{empty: none}]\nx: 1\n", nil, m{"x": 1, "empty": m{}}},
		{"file as config", "defaults: [db/small]\n", nil, m{"db": m{"pool": m{"size": 2, "idle": 1}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(t, append(files, "config.yaml", tt.config)...)
			want := any(tt.want)
			if diff := cmp.Diff(want, plain(t, load(t, tt.overrides...))); diff != "" {
				t.Errorf("%q with %q (-want +got):\n%s", tt.config, tt.overrides, diff)
			}
		})
	}
}
