package natsnet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Join is what a process must know to join a run: where its head is, how to know
// it for sure, and the token that lets in. As text it is the join line, one URL:
//
//	matrix://TOKEN@HOST:PORT[,HOST:PORT...]/RUN[?ca=sha256-HEX]
//
// Who has it can act for the run, so it is kept like a password.
type Join struct {
	Token     string
	Addresses []string // HOST:PORT of the same head, tried in this order
	Run       string   // 8 characters that no other run has
	CA        string   // the SHA-256 of the certificate that stands behind the head's, in hex; empty for no TLS
}

const scheme = "matrix://"

// IsJoin reports whether a word is meant to be a join line.
func IsJoin(s string) bool { return strings.HasPrefix(s, scheme) }

// String is the join line.
func (j Join) String() string {
	s := scheme + j.Token + "@" + strings.Join(j.Addresses, ",") + "/" + j.Run
	if j.CA != "" {
		s += "?ca=sha256-" + j.CA
	}
	return s
}

// Elsewhere reports whether the line has an address that other machines than the head's
// may reach: one that is not loopback.
func (j Join) Elsewhere() bool {
	return slices.ContainsFunc(j.Addresses, func(a string) bool {
		host, _, _ := net.SplitHostPort(a)
		ip := net.ParseIP(host)
		return host != "localhost" && (ip == nil || !ip.IsLoopback())
	})
}

var (
	tokenForm = regexp.MustCompile(`^[A-Za-z0-9]{16,128}$`)
	runForm   = regexp.MustCompile(`^[a-z2-7]{8}$`)
	idForm    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// ParseJoin reads a join line. Its errors do not tell the token.
func ParseJoin(line string) (Join, error) {
	line = strings.TrimSpace(line)
	rest, ok := strings.CutPrefix(line, scheme)
	if !ok {
		return Join{}, fmt.Errorf("it does not begin with %s; want %sTOKEN@HOST:PORT/RUN as the head wrote it", scheme, scheme)
	}
	rest, query, _ := strings.Cut(rest, "?")
	token, rest, ok := strings.Cut(rest, "@")
	if !ok {
		return Join{}, fmt.Errorf("it has no token: want %sTOKEN@HOST:PORT/RUN as the head wrote it", scheme)
	}
	hosts, run, ok := strings.Cut(rest, "/")
	j := Join{Token: token, Run: run}
	switch {
	case !tokenForm.MatchString(token):
		return Join{}, fmt.Errorf("its token (before the @) is not one that a head made: was the line copied whole?")
	case !ok || !runForm.MatchString(run):
		return Join{}, fmt.Errorf("its run %q (behind the last /) is not one: want 8 characters of a-z and 2-7; was the line copied whole?", run)
	}
	for address := range strings.SplitSeq(hosts, ",") {
		host, port, err := net.SplitHostPort(address)
		if n, e := strconv.Atoi(port); err != nil || e != nil || host == "" || n < 1 || n > 65535 {
			return Join{}, fmt.Errorf("its address %q is not HOST:PORT", address)
		}
		j.Addresses = append(j.Addresses, address)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Join{}, fmt.Errorf("what stands behind its ? cannot be read: %w", err)
	}
	for key := range values {
		if key != "ca" {
			return Join{}, fmt.Errorf("%q behind its ? is not known: was it written by a newer version?", key)
		}
	}
	if values.Has("ca") {
		sum, ok := strings.CutPrefix(values.Get("ca"), "sha256-")
		if b, err := hex.DecodeString(sum); !ok || err != nil || len(b) != sha256.Size {
			return Join{}, fmt.Errorf("its ca=%s is not sha256- and 64 hexadecimal digits: was the line copied whole?", values.Get("ca"))
		}
		j.CA = strings.ToLower(sum)
	}
	return j, nil
}
