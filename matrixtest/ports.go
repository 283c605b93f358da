package matrixtest

import (
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"testing"
)

// Ports finds n ports of loopback at which nobody listens, nor at the one behind each. They
// are none that the system gives to connections, which could take one before it is used.
func Ports(t testing.TB, n int) (ports []int) {
	t.Helper()
	for len(ports) < n {
		port := 10_000 + 2*rand.IntN(11_000)
		free := func(port int) bool {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err == nil {
				err = l.Close()
			}
			return err == nil
		}
		if !slices.Contains(ports, port) && free(port) && free(port+1) {
			ports = append(ports, port)
		}
	}
	return ports
}
