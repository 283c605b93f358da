package dataset_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"matrix"
	"matrix/dataset"
)

// genLines writes rows of about 200 bytes.
func genLines(b *testing.B, rows int) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "rows.jsonl")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	text := strings.Repeat("a question ", 12)
	for i := range rows {
		fmt.Fprintf(w, "{\"id\":\"q%09d\",\"question\":\"%s\",\"answer\":%d,\"tags\":[\"a\",\"b\"]}\n", i, text, i%10)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	return path
}

func benchRows(b *testing.B, path string, rows int) {
	s := open(b, dataset.Options{Paths: []string{path}, IDField: "id"})
	i, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(i.Size())
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := s.Rows(context.Background(), matrix.Position{}, func(r matrix.Row) error { n++; return r.Err }); err != nil || n != rows {
			b.Fatalf("got %d rows, %v, want %d", n, err, rows)
		}
	}
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkRowsJSONL(b *testing.B) {
	const rows = 100_000
	benchRows(b, genLines(b, rows), rows)
}

func BenchmarkRowsZstd(b *testing.B) {
	const rows = 100_000
	text, err := os.ReadFile(genLines(b, rows))
	if err != nil {
		b.Fatal(err)
	}
	benchRows(b, writeFile(b, b.TempDir(), "a.jsonl.zst", packed(b, ".zst", string(text))), rows)
}

func BenchmarkRowsParquet(b *testing.B) {
	const rows = 20_000
	benchRows(b, writeParquet(b, smallRows(rows), 5000), rows)
}

func BenchmarkCountJSONL(b *testing.B) {
	const rows = 100_000
	s := open(b, dataset.Options{Paths: []string{genLines(b, rows)}})
	for b.Loop() {
		if n, err := s.Count(context.Background()); err != nil || n != rows {
			b.Fatalf("got %d, %v", n, err)
		}
	}
	b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// Ten million rows (2 GB on disk), and the largest heap on the way.
func BenchmarkTenMillionRows(b *testing.B) {
	const rows = 10_000_000
	s := open(b, dataset.Options{Paths: []string{genLines(b, rows)}, IDField: "id"})
	var peak uint64
	for b.Loop() {
		n := 0
		err := s.Rows(context.Background(), matrix.Position{}, func(r matrix.Row) error {
			if n++; n%500_000 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
			return r.Err
		})
		if err != nil || n != rows {
			b.Fatalf("got %d rows, %v, want %d", n, err, rows)
		}
	}
	b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MB")
	if peak > 64<<20 {
		b.Errorf("got a heap of %d MB, want it flat", peak>>20)
	}
}

func BenchmarkSink(b *testing.B) {
	for _, c := range compressions {
		b.Run(c, func(b *testing.B) {
			s, err := dataset.OpenSink(dataset.OS{}, b.TempDir(), dataset.SinkOptions{Compress: c}, nil)
			if err != nil {
				b.Fatal(err)
			}
			batch := tasks(0, 1000)
			for _, t := range batch {
				t.Turns = append(t.Turns, matrix.Turn{Role: "r", Text: strings.Repeat("some text of a turn ", 100)})
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := s.Write(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
