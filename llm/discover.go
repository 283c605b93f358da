package llm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	lookEvery   = 5 * time.Second  // between two looks at a source, where the config does not say
	lookTimeout = 30 * time.Second // of one look
	lookAgain   = 50 * time.Millisecond
	maxListing  = 1 << 20 // bytes of a file, or of what a command prints
)

// Pinned takes an endpoint apart: base is the URL to speak to, and addr the IP
// address at which its host is to be reached, empty for any that the host name
// has. Endpoints found by DNS are pinned: of https://host:8000/v1#10.0.0.5 the
// connection goes to 10.0.0.5:8000, past any proxy, while the Host header and
// the name in TLS stay the host's.
func Pinned(endpoint string) (base, addr string) {
	base, addr, _ = strings.Cut(endpoint, "#")
	if _, err := netip.ParseAddr(addr); err != nil {
		return endpoint, ""
	}
	return base, addr
}

// check says what is wrong with e, less what the driver says of the URLs. The
// error is a *FieldError of a key below endpoints, or several.
func (e Endpoints) check() error {
	var errs []error
	for i, p := range e {
		bad := func(field, format string, a ...any) {
			errs = append(errs, &FieldError{Field: strconv.Itoa(i) + field, Err: fmt.Errorf(format, a...)})
		}
		var set []string
		for _, f := range []struct {
			name string
			has  bool
		}{{"url", p.URL != ""}, {"file", p.File != ""}, {"command", len(p.Command) > 0}, {"dns", p.DNS != ""}} {
			if f.has {
				set = append(set, f.name)
			}
		}
		switch {
		case len(set) == 0:
			bad("", "is empty; it needs url, file, command or dns")
			continue
		case len(set) > 1:
			bad("."+set[1], "an endpoint has one of url, file, command and dns, and this one has %s", strings.Join(set, " and "))
			continue
		case p.Every < 0:
			bad(".every", "got %v, want more than 0", p.Every)
		}
		switch {
		case p.URL != "":
			if err := checkURL(p.URL); err != nil {
				bad(".url", "%w", err)
			}
		case len(p.Command) > 0 && p.Command[0] == "":
			bad(".command", "names no program")
		case p.DNS != "":
			if _, err := parseName(p.DNS); err != nil {
				bad(".dns", "%w", err)
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return &FieldError{Field: "endpoints", Err: errors.Join(errs...)}
}

// checkURL reports whether a text may be a base URL. Its errors show no password.
func checkURL(text string) error {
	if !strings.Contains(text, "://") {
		if strings.ContainsAny(text, "@ \t") {
			return errors.New("has no scheme; write http://HOST:PORT/v1 or https://...")
		}
		return fmt.Errorf("%q has no scheme; write http://%[1]s or https://%[1]s", text)
	}
	u, err := url.Parse(text)
	if err != nil {
		var inner *url.Error // names the whole text
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return fmt.Errorf("is not a URL: %w", err)
	}
	if u.Hostname() == "" {
		return errors.New("names no host")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port %s: want 1 to 65535", p)
		}
	}
	return nil
}

// fixed are the URLs that stand in the config itself, each once, and whether
// there are no others.
func (e Endpoints) fixed() (urls []string, all bool) {
	all = true
	var lists [][]string
	for _, p := range e {
		if p.URL == "" {
			all = false
			continue
		}
		lists = append(lists, []string{p.URL})
	}
	return merged(lists), all
}

// watch tells update which base URLs e stands for, each once and in the order
// of e: those that the config names at once, and all of them whenever the list
// changes. The first list is empty only where every source was asked and had
// none. What a source had stays when it cannot be asked. note is told what is
// wrong with the sources whenever that changes, nil when it is over. update and
// note are called by one goroutine at a time.
//
// It returns when ctx ends, or when nothing can change. e has passed check.
func (e Endpoints) watch(ctx context.Context, update func(urls []string), note func(error)) {
	e.watchBy(ctx, names{}, update, note)
}

func (e Endpoints) watchBy(ctx context.Context, by resolver, update func([]string), note func(error)) {
	w := &watcher{lists: make([][]string, len(e)), faults: make([]error, len(e)), update: update, note: note}
	looks := make([]resolve, len(e))
	for i, p := range e {
		switch {
		case p.URL != "":
			w.lists[i] = []string{p.URL}
		case p.File != "":
			looks[i] = (&listing{path: p.File}).resolve
		case len(p.Command) > 0:
			looks[i] = command(p.Command).resolve
		default:
			n, _ := parseName(p.DNS)
			looks[i] = n.resolver(by)
		}
		if looks[i] != nil {
			w.waiting++
		}
	}
	w.report()
	var g sync.WaitGroup
	for i := range e {
		if looks[i] != nil {
			g.Go(func() { w.follow(ctx, i, looks[i], cmp.Or(e[i].Every, lookEvery)) })
		}
	}
	g.Wait()
}

// resolve asks a source for its list. With an error and no list, the one before
// holds; errHalf says to look again soon.
type resolve func(ctx context.Context) ([]string, error)

var errHalf = errors.New("is being written")

// watcher joins the lists of several sources.
type watcher struct {
	update func([]string)
	note   func(error)

	mu      sync.Mutex
	waiting int        // sources that were not asked yet
	lists   [][]string // by source
	faults  []error
	told    []string
	spoke   bool
	fault   string // as noted
}

// follow asks a source again and again.
func (w *watcher) follow(ctx context.Context, i int, ask resolve, every time.Duration) {
	first := true
	for ctx.Err() == nil {
		one, cancel := context.WithTimeout(ctx, lookTimeout)
		urls, err := ask(one)
		cancel()
		if ctx.Err() != nil {
			return
		}
		pause := every
		if err == errHalf { //nolint:errorlint // never wrapped
			pause = min(every, lookAgain)
		} else {
			w.found(i, urls, err, first)
			first = false
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

func (w *watcher) found(i int, urls []string, err error, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first {
		w.waiting--
	}
	if err == nil || urls != nil {
		w.lists[i] = urls
	}
	w.faults[i] = err
	w.report()
}

// report passes on what has changed. w.mu is held, or nobody else has w yet.
func (w *watcher) report() {
	fault := errors.Join(w.faults...)
	text := ""
	if fault != nil {
		text = fault.Error()
	}
	if text != w.fault {
		w.fault = text
		w.note(fault)
	}
	now := merged(w.lists)
	if !w.spoke && len(now) == 0 && w.waiting > 0 || w.spoke && slices.Equal(now, w.told) {
		return
	}
	w.told, w.spoke = now, true
	w.update(slices.Clone(now))
}

// merged joins lists, without what was there before.
func merged(lists [][]string) []string {
	var all []string
	seen := map[string]bool{}
	for _, l := range lists {
		for _, u := range l {
			if key := strings.TrimRight(u, "/"); !seen[key] {
				seen[key] = true
				all = append(all, u)
			}
		}
	}
	return all
}

// resolver looks names up.
type resolver interface {
	addrs(ctx context.Context, host string) ([]netip.Addr, error)
	services(ctx context.Context, name string) ([]*net.SRV, error)
}

// names is the system's resolver.
type names struct{}

func (names) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func (names) services(ctx context.Context, name string) ([]*net.SRV, error) {
	_, all, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
	return all, err
}

// parseName reads host:port or a base URL.
func parseName(text string) (*name, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || u.User != nil {
			return nil, errors.New("want host:port or a base URL")
		}
		if u.Port() == "" && !isService(u.Hostname()) {
			return nil, fmt.Errorf("%q has no port; write %[1]s:8000, or a base URL", u.Hostname())
		}
	}
	if err := checkURL(text); err != nil {
		return nil, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, err
	}
	u.Fragment = ""
	return &name{u}, nil
}

// isService reports whether a host name has SRV records rather than addresses.
func isService(host string) bool { return strings.HasPrefix(host, "_") }

// name is a source: what a host name stands for.
type name struct{ url *url.URL }

// resolver finds the addresses of the host as pinned endpoints, or the servers of
// the service.
func (n *name) resolver(by resolver) resolve {
	host := n.url.Hostname()
	return func(ctx context.Context) ([]string, error) {
		if isService(host) {
			found, err := by.services(ctx, host)
			if err != nil {
				return nil, fmt.Errorf("dns %s: %w", host, err)
			}
			urls := []string{}
			for _, s := range found {
				u := *n.url
				u.Host = net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port)))
				urls = append(urls, u.String())
			}
			slices.Sort(urls) // servers change the order from answer to answer
			return urls, nil
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return []string{n.url.String()}, nil
		}
		found, err := by.addrs(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("dns %s: %w", host, err)
		}
		for i := range found {
			found[i] = found[i].Unmap()
		}
		slices.SortFunc(found, netip.Addr.Compare)
		urls := []string{}
		for _, a := range slices.Compact(found) {
			urls = append(urls, n.url.String()+"#"+a.String())
		}
		return urls, nil
	}
}
