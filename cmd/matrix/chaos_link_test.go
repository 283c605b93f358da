package main

import (
	"net"
	"sync"
	"testing"
	"time"
)

// link is a network between workers and a head: it passes on what comes to its address
// to a target, and can be disturbed.
type link struct {
	target   string
	listener net.Listener
	over     sync.WaitGroup

	mu      sync.Mutex
	change  *sync.Cond
	conns   map[*net.TCPConn]bool
	closed  bool
	refused bool
	held    [2]bool       // nothing comes through to the target, from the target
	late    time.Duration // of each piece
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{target: target, listener: listener, conns: map[*net.TCPConn]bool{}}
	l.change = sync.NewCond(&l.mu)
	l.over.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.reset()
		l.over.Wait()
	})
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

// accept passes on connections until the listener is closed.
func (l *link) accept() {
	for {
		a, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.over.Go(func() {
			b, err := net.DialTimeout("tcp", l.target, 5*time.Second)
			if err != nil {
				breakOff(a.(*net.TCPConn))
				return
			}
			from, to := a.(*net.TCPConn), b.(*net.TCPConn)
			l.mu.Lock()
			refused := l.refused || l.closed
			if !refused {
				l.conns[from], l.conns[to] = true, true
			}
			l.mu.Unlock()
			if refused {
				breakOff(from)
				breakOff(to)
				return
			}
			l.over.Go(func() { l.pass(from, to, 0) })
			l.pass(to, from, 1)
		})
	}
}

// pass passes on what is said in one direction, until the connection ends.
func (l *link) pass(from, to *net.TCPConn, direction int) {
	defer func() {
		l.mu.Lock()
		delete(l.conns, from)
		l.mu.Unlock()
		from.Close()
		to.Close()
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		l.mu.Lock()
		for l.held[direction] && l.conns[from] {
			l.change.Wait()
		}
		late := l.late
		l.mu.Unlock()
		time.Sleep(late)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// reset breaks all connections.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		breakOff(c)
		delete(l.conns, c)
	}
	l.change.Broadcast()
}

// refuse lets no connection be made.
func (l *link) refuse(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = on
}

// hold lets nothing through, to the target and from it.
func (l *link) hold(to, from bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = [2]bool{to, from}
	l.change.Broadcast()
}

// delay has each piece come through late.
func (l *link) delay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = d
}

// breakOff closes a connection so that the other side is told at once.
func breakOff(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// links are the ways of a worker to all heads.
type links []*link

func (ls links) reset() {
	for _, l := range ls {
		l.reset()
	}
}

func (ls links) refuse(on bool) {
	for _, l := range ls {
		l.refuse(on)
	}
}

func (ls links) hold(to, from bool) {
	for _, l := range ls {
		l.hold(to, from)
	}
}

func (ls links) delay(d time.Duration) {
	for _, l := range ls {
		l.delay(d)
	}
}
