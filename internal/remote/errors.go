package remote

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
)

// CutError says that a server ends connections before they have brought what was asked for. It is
// no io.EOF: nothing is known of where the file ends.
type CutError struct{}

func (*CutError) Error() string { return "the server has cut the connection, again and again" }

// withoutURL leaves out the address of a request, which may hold secrets, and what could be
// taken for the end of a file.
func withoutURL(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &CutError{}
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// permanent reports whether an error of a request is one that time does not mend.
func permanent(err error) bool {
	var name *net.DNSError
	var cert *x509.UnknownAuthorityError
	var host *x509.HostnameError
	var expired *x509.CertificateInvalidError
	return errors.As(err, &name) && name.IsNotFound || errors.As(err, &cert) || errors.As(err, &host) || errors.As(err, &expired)
}
