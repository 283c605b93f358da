package dataset_test

import (
	"bytes"
	"encoding/base64"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"

	"matrix"
	"matrix/dataset"
)

type everything struct {
	Z     string             `parquet:"z"`
	A     int32              `parquet:"a"`
	Big   uint64             `parquet:"big"`
	Opt   *string            `parquet:"opt,optional"`
	Bin   []byte             `parquet:"bin"`
	F     float64            `parquet:"f"`
	F32   float32            `parquet:"f32"`
	OK    bool               `parquet:"ok"`
	At    time.Time          `parquet:"at,timestamp(microsecond)"`
	Day   int32              `parquet:"day,date"`
	Dec   int64              `parquet:"dec,decimal(2:18)"`
	UUID  [16]byte           `parquet:"uuid,uuid"`
	Old   deprecated.Int96   `parquet:"old"`
	Fixed [3]byte            `parquet:"fixed"`
	JSON  string             `parquet:"json,json"`
	List  []int64            `parquet:"list,list"`
	Bare  []string           `parquet:"bare"`
	Group group              `parquet:"group"`
	Turns []turn             `parquet:"turns,list"`
	Map   map[string]float64 `parquet:"map"`
	Nums  map[int32]string   `parquet:"nums"`
	Deep  []deep             `parquet:"deep"`
}

type group struct {
	B int64  `parquet:"b"`
	A *int64 `parquet:"a,optional"`
}

type turn struct {
	Role  string   `parquet:"role"`
	Texts []string `parquet:"texts,list"`
}

type deep struct {
	In []deeper `parquet:"in"`
}

type deeper struct {
	X []int32 `parquet:"x"`
	Y *int32  `parquet:"y,optional"`
}

func writeParquet[T any](t testing.TB, rows []T, group int) string {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[T](&b, parquet.Compression(&parquet.Zstd))
	for i := range rows {
		if _, err := w.Write(rows[i : i+1]); err != nil {
			t.Fatal(err)
		}
		if (i+1)%group == 0 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return writeFile(t, t.TempDir(), "rows.parquet", b.String())
}

func TestParquetTypes(t *testing.T) {
	text, one, seven := "é\n", int64(1), int32(7)
	rows := []everything{
		{
			Z: "z", A: -1, Big: math.MaxUint64, Opt: &text, Bin: []byte("text"), F: 0.1, F32: 0.1, OK: true,
			At: time.Date(2026, 11, 20, 15, 0, 0, 5000, time.UTC), Day: 20000, Dec: -5, UUID: [16]byte{1, 2, 3, 0xff}, Old: deprecated.Int96{500, 0, 2440589},
			Fixed: [3]byte{1, 2, 3}, JSON: `{"a": [1]}`,
			List: []int64{1, 2, 3}, Bare: []string{"x", ""}, Group: group{B: 2, A: &one},
			Turns: []turn{{"a", []string{"1", "2"}}, {"b", nil}, {"c", []string{"3"}}},
			Map:   map[string]float64{"k\"": 2}, Nums: map[int32]string{4: "four"},
			Deep: []deep{{In: []deeper{{X: []int32{1, 2}}, {Y: &seven}}}, {}, {In: []deeper{{X: []int32{3}}}}},
		},
		{Bin: []byte{0xff, 0}, F: math.NaN(), F32: float32(math.Inf(1)), JSON: "null", Dec: 123456, At: time.Unix(-1, 0)},
	}
	want := []string{
		`{"z":"z","a":-1,"big":18446744073709551615,"opt":"é\n","bin":"text","f":0.1,"f32":0.1,"ok":true,"at":"2026-11-20T15:00:00.000005Z","day":"2024-10-04","dec":-0.05,` +
			`"uuid":"010203ff-0000-0000-0000-000000000000","old":"1970-01-02T00:00:00.0000005Z","fixed":"\u0001\u0002\u0003","json":{"a": [1]},"list":[1,2,3],"bare":["x",""],"group":{"b":2,"a":1},` +
			`"turns":[{"role":"a","texts":["1","2"]},{"role":"b","texts":[]},{"role":"c","texts":["3"]}],"map":{"k\"":2.0},"nums":[{"key":4,"value":"four"}],` +
			`"deep":[{"in":[{"x":[1,2],"y":null},{"x":[],"y":7}]},{"in":[]},{"in":[{"x":[3],"y":null}]}]}`,
		`{"z":"","a":0,"big":0,"opt":null,"bin":"data:;base64,/wA=","f":null,"f32":null,"ok":false,"at":"1969-12-31T23:59:59Z","day":"1970-01-01","dec":1234.56,` +
			`"uuid":"00000000-0000-0000-0000-000000000000","old":"-4713-11-24T00:00:00Z","fixed":"\u0000\u0000\u0000","json":null,"list":[],"bare":[],"group":{"b":0,"a":null},` +
			`"turns":[],"map":{},"nums":[],"deep":[]}`,
	}
	s := open(t, dataset.Options{Paths: []string{writeParquet(t, rows, 100)}})
	got := rowsOf(t, s, matrix.Position{})
	if len(got) != len(want) {
		t.Fatalf("got %d rows, want %d", len(got), len(want))
	}
	for i, r := range got {
		if r.Err != nil || r.Item.String() != want[i] {
			t.Errorf("row %d: %v\ngot  %s\nwant %s", i, r.Err, r.Item, want[i])
		}
		if _, err := matrix.ParseValue(r.Item.Raw()); err != nil {
			t.Errorf("row %d: %v", i, err)
		}
	}
}

// What a value of a binary column was can be told from what is written.
func TestParquetBinary(t *testing.T) {
	type row struct {
		B []byte `parquet:"b"`
	}
	rows := []row{{[]byte("text")}, {[]byte("/wA=")}, {[]byte{0xff, 0}}, {[]byte("data:;base64,/wA=")}, {[]byte("data:")}, {nil}}
	want := []string{"text", "/wA=", "data:;base64,/wA=", "data:;base64,ZGF0YTo7YmFzZTY0LC93QT0=", "data:", ""}
	for i, r := range rowsOf(t, open(t, dataset.Options{Paths: []string{writeParquet(t, rows, 4)}}), matrix.Position{}) {
		got, _ := r.Item.Any().(map[string]any)["b"].(string)
		was := []byte(got)
		if coded, ok := strings.CutPrefix(got, "data:;base64,"); ok {
			was, _ = base64.StdEncoding.DecodeString(coded)
		}
		if got != want[i] || !bytes.Equal(was, rows[i].B) {
			t.Errorf("%q: got %q, want %q", rows[i].B, got, want[i])
		}
	}
}

// Ids are those that runs begun before know, without the point that floats have
// as values, and without what tells that bytes are not text.
func TestParquetIDs(t *testing.T) {
	type row struct {
		F float64 `parquet:"f"`
		S string  `parquet:"s"`
		B []byte  `parquet:"b"`
	}
	path := writeParquet(t, []row{{1, "1.0", []byte("a")}, {2.5, "2.5", []byte{0xff, 0}}, {1e21, "x", []byte("b")}, {-3, "-3.0", []byte{0xfe}}}, 2)
	for field, want := range map[string][]string{"f": {"1", "2.5", "1e+21", "-3"}, "s": {"1.0", "2.5", "x", "-3.0"}, "b": {"a", "/wA=", "b", "/g=="}} {
		s := open(t, dataset.Options{Paths: []string{path}, IDField: field})
		for i, r := range rowsOf(t, s, matrix.Position{}) {
			if r.Err != nil || r.ID != want[i] {
				t.Errorf("id of %s in row %d: got %q, %v; want %q", field, i, r.ID, r.Err, want[i])
			}
		}
	}
}

func TestParquetDecimalsInBytes(t *testing.T) {
	schema := parquet.NewSchema("rows", parquet.Group{
		"d":  parquet.Decimal(3, 20, parquet.FixedLenByteArrayType(9)),
		"l":  parquet.Optional(parquet.List(parquet.Optional(parquet.String()))),
		"ts": parquet.TimestampAdjusted(parquet.Millisecond, false),
		"t":  parquet.Time(parquet.Millisecond),
	})
	var b bytes.Buffer
	w := parquet.NewGenericWriter[any](&b, schema)
	neg := bytes.Repeat([]byte{0xff}, 9) // -1
	rows := []parquet.Row{
		{
			parquet.FixedLenByteArrayValue([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0}).Level(0, 0, 0),
			parquet.ByteArrayValue([]byte("a")).Level(0, 3, 1), parquet.NullValue().Level(1, 2, 1), parquet.ByteArrayValue([]byte("\xff")).Level(1, 3, 1),
			parquet.Int32Value(3_723_004).Level(0, 0, 2), parquet.Int64Value(1500).Level(0, 0, 3),
		},
		{
			parquet.FixedLenByteArrayValue(neg).Level(0, 0, 0), parquet.ByteArrayValue([]byte("a")).Level(0, 3, 1), parquet.NullValue().Level(1, 2, 1),
			parquet.Int32Value(0).Level(0, 0, 2), parquet.Int64Value(-1).Level(0, 0, 3),
		},
		{
			parquet.FixedLenByteArrayValue(neg).Level(0, 0, 0), parquet.NullValue().Level(0, 0, 1),
			parquet.Int32Value(0).Level(0, 0, 2), parquet.Int64Value(0).Level(0, 0, 3),
		},
	}
	if _, err := w.WriteRows(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), "a.parquet", b.String())}})
	got := rowsOf(t, s, matrix.Position{})
	want := []string{
		`1 ! column "element": is text and holds bytes that are not UTF-8`,
		`2  {"d":-0.001,"l":["a",null],"t":"00:00:00","ts":"1969-12-31T23:59:59.999"}`,
		`3  {"d":-0.001,"l":null,"t":"00:00:00","ts":"1970-01-01T00:00:00"}`,
	}
	for i, r := range got {
		if show(r) != want[i] {
			t.Errorf("row %d: got %s, want %s", i, show(r), want[i])
		}
	}
}

func TestParquetIsStrictJSON(t *testing.T) {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[any](&b, parquet.NewSchema("rows", parquet.Group{"j": parquet.JSON(), "m": parquet.Map(parquet.String(), parquet.Leaf(parquet.Int64Type))}))
	row := func(j string, n int) parquet.Row {
		r := parquet.Row{parquet.ByteArrayValue([]byte(j)).Level(0, 0, 0)}
		for i := range n {
			r = append(r, parquet.ByteArrayValue([]byte("a")).Level(min(i, 1), 1, 1))
		}
		for i := range n {
			r = append(r, parquet.Int64Value(int64(i)).Level(min(i, 1), 1, 2))
		}
		return r
	}
	if _, err := w.WriteRows([]parquet.Row{row(`[{"x":1,"x":"\ud800"}]`, 3), row(`{"x":1e400}`, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := rowsOf(t, open(t, dataset.Options{Paths: []string{writeFile(t, t.TempDir(), "a.parquet", b.String())}}), matrix.Position{})
	for i, want := range []string{`1  {"j":[{"x":"�"}],"m":{"a":2}}`, `2 ! column "j": is JSON, in which "x" has the number 1e400, which is beyond the range of 64-bit floats`} {
		if show(got[i]) != want {
			t.Errorf("row %d: got %s, want %s", i, show(got[i]), want)
		}
	}
}

type small struct {
	ID   int64  `parquet:"id"`
	Text string `parquet:"text"`
}

func smallRows(n int) []small {
	rows := make([]small, n)
	for i := range rows {
		rows[i] = small{int64(i), strings.Repeat("x", i%100)}
	}
	return rows
}

func TestParquetResumesByRow(t *testing.T) {
	s := open(t, dataset.Options{Paths: []string{writeParquet(t, smallRows(1000), 130)}, IDField: "id", Skip: 3})
	all := rowsOf(t, s, matrix.Position{})
	for _, i := range []int{0, 126, 127, 128, 256, 257, 500, 995, 996} {
		rest := rowsOf(t, s, all[i].Next)
		if len(rest) != len(all)-i-1 || len(rest) > 0 && (rest[0].ID != all[i+1].ID || rest[0].Address != all[i+1].Address) {
			t.Errorf("after row %d: got %d rows, want %d", i, len(rest), len(all)-i-1)
		}
	}
	if n, err := s.Count(t.Context()); err != nil || n != 997 {
		t.Errorf("Count: got %d, %v, want 997", n, err)
	}
	if _, err := rowsAndError(t, s, matrix.Position{Line: 1001, Row: 1}); err == nil || !strings.Contains(err.Error(), "has 1000 rows, and 1001 were read before") {
		t.Errorf("beyond the end: got %v", err)
	}
}

func TestDamagedParquet(t *testing.T) {
	path := writeParquet(t, smallRows(1000), 100)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for at := 10; at < len(whole); at += 97 {
		b := bytes.Clone(whole)
		for i := range min(16, len(b)-at) {
			b[at+i] ^= 0x55
		}
		writeFile(t, filepath.Dir(path), "rows.parquet", string(b))
		s, err := dataset.Open(dataset.Options{Paths: []string{path}})
		if err == nil {
			_, err = rowsAndError(t, s, matrix.Position{})
		}
		if err != nil {
			failed++
			if !strings.Contains(err.Error(), "rows.parquet") {
				t.Errorf("damage at %d: got %v, want the file's name in it", at, err)
			}
		}
	}
	if failed == 0 {
		t.Error("no damage was found")
	}
}
