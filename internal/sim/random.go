package sim

import (
	"math"

	"github.com/zeebo/xxh3"
)

// random draws from a seed (splitmix64, Steele et al. 2014).
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	return mix(uint64(*r))
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below returns a number from 0 to n-1.
func (r *random) below(n int) int { return int(r.next() % uint64(n)) }

// float returns a number from 0 up to 1.
func (r *random) float() float64 { return float64(r.next()>>11) / (1 << 53) }

// normal draws from the standard normal distribution (Box and Muller).
func (r *random) normal() float64 {
	u := 1 - r.float()
	return math.Sqrt(-2*math.Log(u)) * math.Cos(2*math.Pi*r.float())
}

// lognormal draws from the lognormal distribution with this mean.
func (r *random) lognormal(mean, sigma float64) float64 {
	if sigma == 0 {
		return mean
	}
	return mean * math.Exp(sigma*r.normal()-sigma*sigma/2)
}

// blend makes one seed of two.
func blend(a, b uint64) uint64 { return mix(a ^ mix(b+0x9e3779b97f4a7c15)) }

func hashOf(s string) uint64 { return xxh3.HashString(s) }
