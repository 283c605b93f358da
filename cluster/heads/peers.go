package heads

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// PeersError says what is wrong with the addresses of all heads.
type PeersError struct{ Err error }

func (e *PeersError) Error() string { return e.Err.Error() }
func (e *PeersError) Unwrap() error { return e.Err }

func peersErrorf(format string, args ...any) error {
	return &PeersError{fmt.Errorf(format, args...)}
}

// peers reads the addresses of all heads, and finds out which one this is.
func peers(ctx context.Context, o Options) (all []string, self string, err error) {
	if o.Port == 0 {
		return nil, "", peersErrorf("heads that find each other need a port of their own: give one to listen at, such as :7070")
	}
	for _, p := range o.Peers {
		a, err := withPort(p, o.Port)
		if err != nil {
			return nil, "", err
		}
		if slices.Contains(all, a) {
			return nil, "", peersErrorf("%s stands there twice", a)
		}
		all = append(all, a)
	}
	if len(all) != 3 && len(all) != 5 {
		return nil, "", peersErrorf("got %d heads (%s), want 3 or 5, this one among them: with fewer, one that is away stops all", len(all), strings.Join(all, ", "))
	}
	for _, a := range all {
		host, port, _ := net.SplitHostPort(a) // withPort has joined it
		n, _ := strconv.Atoi(port)
		if behind := net.JoinHostPort(host, strconv.Itoa(n+1)); slices.Contains(all, behind) {
			return nil, "", peersErrorf("%s takes the port behind its own, too, which is that of %s: leave a port between them", a, behind)
		}
	}
	var mine []string
	for _, a := range all {
		is, err := isSelf(ctx, a, o)
		if err != nil {
			return nil, "", err
		}
		if is {
			mine = append(mine, a)
		}
	}
	switch at := net.JoinHostPort(o.Host, strconv.Itoa(o.Port)); len(mine) {
	case 1:
		return all, mine[0], nil
	case 0:
		return nil, "", peersErrorf("none of %s is this machine at %s: name the address that the others know it by, with the same port, or say which one it is with cluster.advertise", strings.Join(all, ", "), at)
	default:
		return nil, "", peersErrorf("%s are all this machine at %s: listen at the address of one", strings.Join(mine, " and "), at)
	}
}

// withPort is an address with a port, which may be missing.
func withPort(peer string, port int) (string, error) {
	host, text, err := net.SplitHostPort(peer)
	if err != nil {
		host, text = strings.Trim(peer, "[]"), strconv.Itoa(port)
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", peersErrorf("%q is not HOST or HOST:PORT", peer)
		}
	}
	if n, err := strconv.ParseUint(text, 10, 16); err != nil || n == 0 || n == 65535 || host == "" || strings.ContainsAny(host, "/@ ") {
		return "", peersErrorf("%q is not HOST or HOST:PORT, with a port from 1 to 65534", peer)
	}
	return net.JoinHostPort(host, text), nil
}

// isSelf reports whether an address is that of this head.
func isSelf(ctx context.Context, address string, o Options) (bool, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false, err
	}
	for _, a := range o.Advertise {
		if a, err := withPort(a, o.Port); err == nil && a == address {
			return true, nil
		}
	}
	if port != strconv.Itoa(o.Port) || len(o.Advertise) > 0 {
		return false, nil
	}
	if host == o.Host {
		return true, nil
	}
	if name, err := os.Hostname(); o.Host == "" && err == nil && strings.EqualFold(host, name) {
		return true, nil
	}
	own, err := ownAddresses(o.Host)
	if err != nil {
		return false, err
	}
	found, _ := net.DefaultResolver.LookupHost(ctx, host) // one that is not known yet is not this machine
	return slices.ContainsFunc(found, func(a string) bool { return slices.ContainsFunc(own, net.ParseIP(a).Equal) }), nil
}

// ownAddresses are those at which a head at a host listens.
func ownAddresses(host string) (own []net.IP, err error) {
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return []net.IP{ip}, nil
	}
	if host != "" && net.ParseIP(host) == nil {
		return net.LookupIP(host)
	}
	addresses, err := net.InterfaceAddrs()
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok {
			own = append(own, n.IP)
		}
	}
	return own, err
}
