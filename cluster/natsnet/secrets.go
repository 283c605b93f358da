package natsnet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

// Secrets are what the heads of a run, one after the other or several at once, have in common: with
// them a head is the one that workers have joined before. They are kept where
// only the run's user can read them.
type Secrets struct {
	Run   string `json:"run"`   // 8 characters that no other run has
	Token string `json:"token"` // lets workers in
	CA    string `json:"ca"`    // the certificate of an authority that signs those of heads alone, PEM
	Key   string `json:"key"`   // its key, PEM
}

// NewSecrets makes the secrets of a new run.
func NewSecrets() (*Secrets, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	s := &Secrets{Run: random(5), Token: random(20)}
	ca := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "matrix run " + s.Run},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	s.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	s.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return s, nil
}

// random is n random bytes as letters and digits.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// NewID makes the id of a worker that no other has, with a name that people know
// it by in front. What a name may not have becomes a dash.
func NewID(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < 0x80 && idForm.MatchString(string(r)) {
			return r
		}
		return '-'
	}, name)
	return strings.TrimLeft(name[:min(len(name), 48)]+"-"+random(5), "-")
}

// serverTLS is how a head under the names speaks TLS, and the fingerprint of the
// authority behind it.
func (s *Secrets) serverTLS(names []string) (*tls.Config, string, error) {
	pair, err := tls.X509KeyPair([]byte(s.CA), []byte(s.Key))
	if err != nil {
		return nil, "", fmt.Errorf("the certificate authority of the run cannot be read: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, "", err
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "matrix head of run " + s.Run},
		NotBefore: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, pair.Leaf, key.Public(), pair.PrivateKey)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(pair.Leaf.Raw)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, pair.Leaf.Raw}, PrivateKey: key}},
	}, hex.EncodeToString(sum[:]), nil
}

// errPin says that who answers is not the head that the join line speaks of.
var errPin = errors.New("who answers there is not the head that wrote the join line (it has another certificate)")

// clientTLS is how a worker speaks TLS: the head is who has a certificate signed by
// the authority of that fingerprint, under whatever name and at whatever time.
// differs is told when somebody else answers.
func clientTLS(ca string, differs func()) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it, by the fingerprint
		VerifyConnection: func(c tls.ConnectionState) error {
			for _, authority := range c.PeerCertificates[1:] {
				sum := sha256.Sum256(authority.Raw)
				if hex.EncodeToString(sum[:]) == ca && c.PeerCertificates[0].CheckSignatureFrom(authority) == nil {
					return nil
				}
			}
			differs()
			return errPin
		},
	}
}
