package dedup

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"sync"
)

const (
	block = 32   // dimensions after which a comparison may be over
	chunk = 4096 // vectors that are kept together
)

// vectors are of length 1, and compared with each other one by one.
type vectors struct {
	dim    int
	len    int
	ids    []uint64    // of the texts
	chunks [][]float32 // chunk vectors each
	rests  [][]float32 // of each vector, for each block, how long what begins there is
}

// add adds a vector, as a signature has it.
func (v *vectors) add(id uint64, vector []byte) error {
	dim := len(vector) / 4
	if dim == 0 || len(vector)%4 != 0 || v.len > 0 && dim != v.dim {
		return fmt.Errorf("a vector of %d dimensions among those of %d: a model that embeds gives all as many", dim, v.dim)
	}
	v.dim = dim
	if v.len%chunk == 0 {
		v.chunks = append(v.chunks, make([]float32, 0, chunk*dim))
		v.rests = append(v.rests, make([]float32, 0, chunk*blocks(dim)))
	}
	last := len(v.chunks) - 1
	values := decodeVector(vector)
	v.chunks[last] = append(v.chunks[last], values...)
	v.rests[last] = append(v.rests[last], rests(values)...)
	v.ids = append(v.ids, id)
	v.len++
	return nil
}

func decodeVector(vector []byte) []float32 {
	values := make([]float32, len(vector)/4)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(vector[4*i:]))
	}
	return values
}

func blocks(dim int) int { return (dim + block - 1) / block }

// rests are the lengths of what begins at each block.
func rests(v []float32) []float32 {
	all := make([]float32, blocks(len(v)))
	sum := 0.0
	for i := len(v) - 1; i >= 0; i-- {
		sum += float64(v[i]) * float64(v[i])
		if i%block == 0 {
			all[i/block] = float32(math.Sqrt(sum))
		}
	}
	return all
}

// find is the first vector whose cosine with this one is at least threshold.
func (v *vectors) find(vector []byte, threshold float64) (id uint64, cosine float64, found bool, err error) {
	at := 0
	if v.len == 0 {
		return 0, 0, false, nil
	}
	if len(vector) != 4*v.dim {
		return 0, 0, false, fmt.Errorf("a vector of %d dimensions among those of %d: a model that embeds gives all as many", len(vector)/4, v.dim)
	}
	q := decodeVector(vector)
	rest := rests(q)
	// Each of a few goroutines looks through chunks of its own; the first match of all counts.
	workers := min(runtime.GOMAXPROCS(0), len(v.chunks))
	firsts, cosines := make([]int, workers), make([]float64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		firsts[w] = -1
		wg.Go(func() {
			for c := w; c < len(v.chunks) && firsts[w] < 0; c += workers {
				if i, cos := scan(v.chunks[c], v.rests[c], q, rest, threshold); i >= 0 {
					firsts[w], cosines[w] = c*chunk+i, cos
				}
			}
		})
	}
	wg.Wait()
	for w, i := range firsts {
		if i >= 0 && (!found || i < at) {
			at, cosine, found = i, cosines[w], true
		}
	}
	return v.ids[at], cosine, found, nil
}

// scan is the first of a chunk's vectors whose cosine with q is at least threshold; -1 for
// none. What is left of two vectors adds no more than the product of its lengths, so most
// are over after some blocks.
func scan(vs, rests, q, rest []float32, threshold float64) (int, float64) {
	dim, n := len(q), len(rest)
	least := float32(threshold) - 1e-4
	for i := 0; i*dim < len(vs); i++ {
		v, r := vs[i*dim:(i+1)*dim:(i+1)*dim], rests[i*n:(i+1)*n:(i+1)*n]
		sum := float32(0)
		k := 0
		for ; k < n && sum+rest[k]*r[k] >= least; k++ {
			from, to := k*block, min((k+1)*block, dim)
			sum += dot(q[from:to], v[from:to])
		}
		if k == n {
			if cos := cosine(q, v); cos >= threshold {
				return i, cos
			}
		}
	}
	return -1, 0
}

func dot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += a[i] * b[i]
		s1 += a[i+1] * b[i+1]
		s2 += a[i+2] * b[i+2]
		s3 += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + s2 + s3
}

// cosine of vectors of length 1, as exact as they are.
func cosine(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return math.Round(sum*1e6) / 1e6
}
