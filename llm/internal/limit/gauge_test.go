package limit

import (
	"testing"
	"time"
)

// Of a service that others use too, a client keeps its share.
func TestGaugeShares(t *testing.T) {
	var g gauge
	g.read(0, time.Second, 200, 200, 300, 300, true)
	if got := g.level(0, 1000); got < 150 || got > 165 {
		t.Errorf("300 of 400 calls are the client's, and 200 run: got a limit of %v, want 3/4 of 214", got)
	}
	if got := g.level(4*time.Second, 1000); got != 1000 {
		t.Errorf("got %v from a gauge that is stale, want the limit without it", got)
	}
}
