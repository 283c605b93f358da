package llm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// zone is a resolver that a test writes.
type zone struct {
	mu    sync.Mutex
	hosts map[string][]string
	srv   map[string][]*net.SRV
}

func (z *zone) set(host string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.hosts[host] = addrs
}

func (z *zone) addrs(_ context.Context, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var all []netip.Addr
	for _, a := range z.hosts[host] {
		all = append(all, netip.MustParseAddr(a))
	}
	if all == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return all, nil
}

func (z *zone) services(_ context.Context, name string) ([]*net.SRV, error) {
	return z.srv[name], nil
}

// watching is a watch under way.
type watching struct {
	t     *testing.T
	lists chan []string
	notes chan error
}

func watchOf(t *testing.T, e Endpoints, by resolver) *watching {
	t.Helper()
	if err := e.check(); err != nil {
		t.Fatal(err)
	}
	for i := range e {
		e[i].Every = 5 * time.Millisecond
	}
	w := &watching{t, make(chan []string, 100), make(chan error, 100)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.watchBy(ctx, by, func(urls []string) { w.lists <- urls }, func(err error) { w.notes <- err })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// next wants the next list to be urls, with blanks between them.
func (w *watching) next(urls string) {
	w.t.Helper()
	select {
	case got := <-w.lists:
		if want := strings.Fields(urls); !slices.Equal(got, want) {
			w.t.Fatalf("got endpoints %q, want %q", got, want)
		}
	case <-time.After(5 * time.Second):
		w.t.Fatalf("no new list came, want %q", urls)
	}
}

// noted wants the next note to hold text; "" is that all is well again.
func (w *watching) noted(text string) {
	w.t.Helper()
	select {
	case err := <-w.notes:
		if (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			w.t.Fatalf("got note %v, want %q", err, text)
		}
	case <-time.After(5 * time.Second):
		w.t.Fatalf("no note came, want %q", text)
	}
}

// still wants nothing to change for a while.
func (w *watching) still() {
	w.t.Helper()
	select {
	case got := <-w.lists:
		w.t.Fatalf("got endpoints %q, want no change", got)
	case <-time.After(30 * time.Millisecond):
	}
}

// put writes a file at once, so that nobody reads half of it.
func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file+".new", []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestEndpointsWrittenDown(t *testing.T) {
	e := Endpoints{{URL: "http://a/v1"}, {URL: "http://b/v1"}, {URL: "http://a/v1/"}}
	var got [][]string
	e.watch(t.Context(), func(urls []string) { got = append(got, urls) }, func(err error) { t.Errorf("got note %v", err) })
	if want := []string{"http://a/v1", "http://b/v1"}; len(got) != 1 || !slices.Equal(got[0], want) {
		t.Errorf("got lists %q, want one, %q", got, want)
	}
	if urls, all := e.fixed(); !all || len(urls) != 2 {
		t.Errorf("fixed: got %q and %v, want 2 and true", urls, all)
	}
}

func TestEndpointsOfFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoints")
	w := watchOf(t, Endpoints{{File: file}}, nil)
	w.noted("is not there yet")
	w.next("")

	put(t, file, "# two\nhttp://a:1/v1\n\n  http://b:2/v1  # the other\n")
	w.noted("")
	w.next("http://a:1/v1 http://b:2/v1")
	w.still()

	put(t, file, "http://b:2/v1\nhttp://b:2/v1/\nb:3\n")
	w.noted(`line 3: "b:3" has no scheme`)
	w.next("http://b:2/v1")

	put(t, file, "http://c:3/v1") // no newline: taken once it stays so
	w.noted("")
	w.next("http://c:3/v1")

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.noted("is not there yet")
	w.next("")

	put(t, file, strings.Repeat("#\n", maxListing))
	w.noted("larger than 1 MiB")
	w.still()
}

// What is written in pieces is never read as an address that nobody wrote.
func TestEndpointsHalfWritten(t *testing.T) {
	l := &listing{path: filepath.Join(t.TempDir(), "endpoints")}
	for i, step := range []struct{ text, want string }{
		{"", "half"}, {"http://gpu1:80", "half"}, {"http://gpu1:8000", "half"}, {"http://gpu1:8000", "http://gpu1:8000"},
		{"http://gpu1:8000\nhttp", "half"}, {"http://gpu1:8000\nhttp://gpu2:8000\n", "http://gpu1:8000 http://gpu2:8000"},
		{"", "half"}, {"", ""},
	} {
		put(t, l.path, step.text)
		urls, err := l.resolve(t.Context())
		got := strings.Join(urls, " ")
		if errors.Is(err, errHalf) {
			got = "half"
		}
		if got != step.want {
			t.Errorf("step %d, %q: got %q, want %q", i, step.text, got, step.want)
		}
	}
}

func TestEndpointsOfCommand(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "list")
	put(t, list, "http://a:1/v1\n")
	e := Endpoints{{URL: "http://z/v1"}, {Command: []string{"sh", "-c", `cat "$1" || { echo gone >&2; exit 3; }`, "sh", list}}}
	w := watchOf(t, e, nil)
	w.next("http://z/v1") // does not wait for the command
	w.next("http://z/v1 http://a:1/v1")
	put(t, list, "http://b:1/v1\nhttp://a:1/v1\n")
	w.next("http://z/v1 http://b:1/v1 http://a:1/v1")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	w.noted("command sh: exit status 3: gone")
	w.still() // the last list holds
	put(t, list, "")
	w.noted("command sh prints no base URL")
	w.next("http://z/v1")
	put(t, list, "http://a:1/v1\n")
	w.noted("")
	w.next("http://z/v1 http://a:1/v1")
}

// What is wrong with a source shows also where another has endpoints.
func TestEndpointsNoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoints")
	put(t, file, "http://127.0.0.1:1/v1\ngpu2:8000\na\nb\nc\n")
	c, err := New("m", Service{}, Endpoints{{File: file}}, func(string) (Driver, error) { return deaf{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Probe(within(t, 5*time.Second))
	s := c.Stats()
	if s.Paused != nil || len(s.Endpoints) != 1 {
		t.Errorf("got %+v, want one endpoint, and no pause", s)
	}
	for _, want := range []string{`line 2: "gpu2:8000" has no scheme`, "line 4: ", "1 more line is not a base URL"} {
		if !strings.Contains(s.Note.String(), want) {
			t.Errorf("note: got %q, want %q in it", s.Note, want)
		}
	}
	c.Conceal(Secrets{{Text: "gpu2:8000", Shown: "***"}})
	if s := c.Stats(); !strings.Contains(s.Note.String(), `line 2: "***" has no scheme`) {
		t.Errorf("note: got %q, want it without the secret", s.Note)
	}
}

// deaf is a driver that nobody speaks on.
type deaf struct{ Driver }

func (deaf) Probe(context.Context) ([]Served, error) { return nil, nil }
func (deaf) Close() error                            { return nil }

func TestEndpointsOfCommandThatHangs(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := command{"sh", "-c", "sleep 60 & sleep 60"}.resolve(ctx)
	if err == nil || !strings.Contains(err.Error(), "did not end") || time.Since(began) > 3*time.Second {
		t.Errorf("got %v after %v, want that it did not end, at once", err, time.Since(began))
	}
	_, err = command{"no-such-program-here"}.resolve(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no-such-program-here") {
		t.Errorf("got %v, want the name of the program", err)
	}
	_, err = command{"sh", "-c", "yes http://a:1"}.resolve(within(t, 10*time.Second))
	if err == nil || !strings.Contains(err.Error(), "more than 1 MiB") {
		t.Errorf("endless output: got %v, want that it is too much", err)
	}
}

func TestEndpointsOfDNS(t *testing.T) {
	z := &zone{hosts: map[string][]string{}, srv: map[string][]*net.SRV{
		"_llm._tcp.example.org": {{Target: "n2.example.org.", Port: 81}, {Target: "n1.example.org.", Port: 80}},
	}}
	e := Endpoints{{DNS: "https://pods.example.org:8000/v1"}, {DNS: "_llm._tcp.example.org"}, {DNS: "127.0.0.1:9000"}}
	w := watchOf(t, e, z)
	srv := " http://n1.example.org:80 http://n2.example.org:81"
	w.noted("dns pods.example.org: lookup pods.example.org: no such host")
	for got := []string(nil); len(got) < 3; { // the sources come in any order
		select {
		case got = <-w.lists:
		case <-time.After(5 * time.Second):
			t.Fatalf("got %q, want 3", got)
		}
	}
	z.set("pods.example.org", "10.0.0.7", "10.0.0.5", "::ffff:10.0.0.7", "fd00::1")
	w.noted("")
	pods := "https://pods.example.org:8000/v1#10.0.0.5 https://pods.example.org:8000/v1#10.0.0.7 https://pods.example.org:8000/v1#fd00::1"
	w.next(pods + srv + " http://127.0.0.1:9000")
	z.set("pods.example.org", "10.0.0.5", "fd00::1", "10.0.0.7") // in turn
	w.still()
	z.set("pods.example.org")
	w.noted("no such host")
	w.still() // the last list holds
}

func TestSystemResolver(t *testing.T) {
	n, err := parseName("localhost:80")
	if err != nil {
		t.Fatal(err)
	}
	urls, err := n.resolver(names{})(t.Context())
	if err != nil || !slices.Contains(urls, "http://localhost:80#127.0.0.1") {
		t.Errorf("got %q and %v, want http://localhost:80#127.0.0.1 among them", urls, err)
	}
}

func TestPinned(t *testing.T) {
	for in, want := range map[string][2]string{
		"https://h:1/v1#10.0.0.5": {"https://h:1/v1", "10.0.0.5"},
		"http://h/v1#fd00::1":     {"http://h/v1", "fd00::1"},
		"http://h/v1":             {"http://h/v1", ""},
		"http://h/v1#part":        {"http://h/v1#part", ""},
	} {
		base, addr := Pinned(in)
		if got := [2]string{base, addr}; got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestEndpointsCheck(t *testing.T) {
	for _, c := range []struct {
		name  string
		e     Endpoint
		field string // "" where nothing is wrong
		text  string
	}{
		{"url", Endpoint{URL: "https://h/v1"}, "", ""},
		{"grpc", Endpoint{URL: "grpc://h:1"}, "", ""},
		{"service", Endpoint{DNS: "_llm._tcp.h"}, "", ""},
		{"v6", Endpoint{DNS: "[::1]:80"}, "", ""},
		{"nothing", Endpoint{Every: time.Second}, "endpoints: 0", "needs url, file"},
		{"two", Endpoint{URL: "http://h", File: "f"}, "endpoints: 0.file", "has url and file"},
		{"no scheme", Endpoint{URL: "h:8000"}, "endpoints: 0.url", "write http://h:8000 or https://h:8000"},
		{"port", Endpoint{URL: "http://h:99999/v1"}, "endpoints: 0.url", "port 99999"},
		{"port 0", Endpoint{URL: "http://h:0/v1"}, "endpoints: 0.url", "port 0"},
		{"no host", Endpoint{URL: "http:///v1"}, "endpoints: 0.url", "names no host"},
		{"password", Endpoint{URL: "http://u:hunter2@h:x"}, "endpoints: 0.url", "is not a URL"},
		{"password, no scheme", Endpoint{URL: "u:hunter2@h"}, "endpoints: 0.url", "has no scheme"},
		{"no program", Endpoint{Command: []string{""}}, "endpoints: 0.command", "names no program"},
		{"negative", Endpoint{File: "f", Every: -1}, "endpoints: 0.every", "want more than 0"},
		{"no port", Endpoint{DNS: "h"}, "endpoints: 0.dns", "has no port"},
		{"no name", Endpoint{DNS: ":80"}, "endpoints: 0.dns", "want host:port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Endpoints{c.e}.check()
			if c.field == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			var f *FieldError
			if !errors.As(err, &f) {
				t.Fatalf("got %v, want a FieldError", err)
			}
			if got := fmt.Sprint(err); !strings.HasPrefix(got, c.field+": ") || !strings.Contains(got, c.text) || strings.Contains(got, "hunter2") {
				t.Errorf("got %q, want %q at %s, and no password", got, c.text, c.field)
			}
		})
	}
}

// A cause that ends every call is not a pause.
func TestFatalIsNoPause(t *testing.T) {
	soon := tuned
	soon.retry = backoff{time.Millisecond, time.Millisecond}
	kind := Fatal
	open := func(string) (Driver, error) {
		return failing{f: func() *Failure { return &Failure{Kind: kind, Endpoint: "http://h", Msg: "no", Hint: "check api_key"} }}, nil
	}
	for _, c := range []struct {
		kind Kind
		want string
	}{{Fatal, ""}, {Unreachable, "http://h: no (check api_key), 0 s"}} {
		kind = c.kind
		m, err := newClient("m", Service{}, Endpoints{{URL: "http://h"}}, open, soon)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(within(t, 20*time.Second))
		done := make(chan error, 1)
		go func() {
			_, err := m.Do(ctx, &Request{Prompt: "x"})
			done <- err
		}()
		if c.want == "" {
			<-done
		}
		var s Stats
		for s = m.Stats(); s.Paused == nil && c.want != "" && ctx.Err() == nil; s = m.Stats() {
			time.Sleep(time.Millisecond)
		}
		if s.Paused.String() != c.want || s.Endpoints[0].Fault == nil {
			t.Errorf("%v: got paused %q, fault %q, want %q and a fault", c.kind, s.Paused, s.Endpoints[0].Fault, c.want)
		}
		cancel()
		if c.want != "" {
			<-done
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// failing is a driver on which every try fails.
type failing struct {
	deaf
	f func() *Failure
}

func (w failing) Send(context.Context, *Request) (*Reply, error) { return nil, w.f() }
