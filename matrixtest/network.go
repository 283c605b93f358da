package matrixtest

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"matrix/cluster"
)

// Network is a network of a cluster in this process: it loses nothing, and
// an address may end in * for all that begin so.
type Network struct {
	most int // bytes of a frame

	mu        sync.RWMutex
	listeners map[string][]*listener // by address
}

// NewNetwork makes a network whose frames have at most so many bytes.
func NewNetwork(most int) *Network {
	return &Network{most: most, listeners: map[string][]*listener{}}
}

var _ cluster.Net = (*Network)(nil)

// MaxFrame implements cluster.Net.
func (n *Network) MaxFrame() int { return n.most }

// Send implements cluster.Net.
func (n *Network) Send(address string, frame []byte) error {
	if len(frame) > n.most {
		return errors.New("the frame is too large")
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, l := range n.listeners[address] {
		l.put(bytes.Clone(frame))
	}
	for i := range address {
		for _, l := range n.listeners[address[:i]+"*"] {
			l.put(bytes.Clone(frame))
		}
	}
	return nil
}

// Receive implements cluster.Net.
func (n *Network) Receive(address string, f func(frame []byte)) (stop func(), err error) {
	l := &listener{f: f, wake: make(chan struct{}, 1), quit: make(chan struct{}), gone: make(chan struct{})}
	n.mu.Lock()
	n.listeners[address] = append(n.listeners[address], l)
	n.mu.Unlock()
	go l.run()
	return sync.OnceFunc(func() {
		n.mu.Lock()
		n.listeners[address] = slices.DeleteFunc(n.listeners[address], func(x *listener) bool { return x == l })
		n.mu.Unlock()
		close(l.quit)
		<-l.gone
	}), nil
}

// listener calls f for what comes, in a goroutine of its own.
type listener struct {
	f    func(frame []byte)
	wake chan struct{}
	quit chan struct{}
	gone chan struct{}

	mu     sync.Mutex
	frames [][]byte
}

func (l *listener) put(frame []byte) {
	l.mu.Lock()
	l.frames = append(l.frames, frame)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) run() {
	defer close(l.gone)
	for {
		select {
		case <-l.wake:
		case <-l.quit:
			return
		}
		l.mu.Lock()
		frames := l.frames
		l.frames = nil
		l.mu.Unlock()
		for _, b := range frames {
			select {
			case <-l.quit:
				return
			default:
				l.f(b)
			}
		}
	}
}

// line is the way of one process to a network, which may be bad.
type line struct {
	cluster.Net
	faults *faults

	deaf, mute atomic.Bool // what comes, what is sent, is lost
	came       atomic.Int64
}

func (l *line) Send(address string, frame []byte) error {
	if l.mute.Load() {
		return nil
	}
	return l.faults.send(l.Net, address, frame)
}

func (l *line) Receive(address string, f func(frame []byte)) (stop func(), err error) {
	return l.Net.Receive(address, func(frame []byte) {
		if !l.deaf.Load() {
			l.came.Add(int64(len(frame)))
			f(frame)
		}
	})
}

// cut cuts a process off, or no more.
func (l *line) cut(off bool) {
	l.deaf.Store(off)
	l.mute.Store(off)
}
