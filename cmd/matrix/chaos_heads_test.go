package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"matrix/cluster/heads"
	"matrix/matrixtest"
)

// headSeat is a place of a head: its address, its network and its disk, and which process
// is there now.
type headSeat struct {
	*process
	name      string
	at        string // address; empty of a lone head
	store     string
	space     string  // its network namespace; empty for that of the test
	wire      string  // which leads there
	limit     float64 // USD that the run may spend, as it was told
	exits     int     // with what it is to end; 0: not before the run
	disturbed bool
}

// chaosDisk is the size of a disk that a run does not fill.
const chaosDisk = 2 << 20 // KiB

// loneHead is one head, on a disk that can be made small where the system allows it.
func (c *chaos) loneHead() {
	c.heads = []*headSeat{{}}
	c.kinds = append(c.kinds,
		&chaosKind{name: "the head is killed", loses: chaosHead, head: c.killHead},
		&chaosKind{name: "the head is stopped", loses: 0, head: c.stopHead},
		&chaosKind{name: "the head is paused", loses: 0, head: func(h *headSeat) {
			c.pause(h.process, 3*time.Second, func() { h.disturbed = false })
		}},
	)
	c.disk = filepath.Join(c.dir, "disk")
	if err := os.Mkdir(c.disk, 0o777); err != nil {
		c.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dk", chaosDisk), "none", c.disk).CombinedOutput(); err != nil {
		c.Logf("no disk is full: cannot mount a small one here: %v: %s", err, out)
		c.disk = ""
		return
	}
	c.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", c.disk).CombinedOutput(); err != nil {
			c.Errorf("umount: %v: %s", err, out)
		}
	})
	c.out = filepath.Join(c.disk, "out")
	c.kinds = append(c.kinds, &chaosKind{name: "the disk is full", loses: chaosHead, head: c.fullDisk})
}

// pastLease is longer than others wait for who leads.
const pastLease = 7 * time.Second

// severalHeads are so many, each in a network of its own where the system allows it. It
// returns the address of this machine for them.
func (c *chaos) severalHeads(n int) (host string) {
	for i := range n {
		c.heads = append(c.heads, &headSeat{store: filepath.Join(c.dir, fmt.Sprint("store", i))})
	}
	c.kinds = append(c.kinds,
		&chaosKind{name: "a head is killed", loses: chaosHead, head: c.killHead},
		&chaosKind{name: "a head is stopped", loses: 0, head: c.stopHead},
		&chaosKind{name: "a head is paused", loses: chaosHead, mute: true, head: func(h *headSeat) {
			c.pause(h.process, 3*time.Second, func() { c.awaitHead(h) })
		}},
		&chaosKind{name: "the leader is killed", loses: chaosHead, leads: true, head: c.killHead},
		&chaosKind{name: "the leader is paused until another one leads, and woken", loses: chaosHead, leads: true, mute: true, head: func(h *headSeat) {
			_ = h.cmd.Process.Signal(syscall.SIGSTOP)
			c.later(pastLease, 2*pastLease, func() {
				_ = h.cmd.Process.Signal(syscall.SIGCONT)
				c.awaitHead(h)
			})
		}},
		&chaosKind{name: "two heads are killed, and away for a while", loses: 2 * chaosHead, leads: true, head: func(h *headSeat) {
			c.killHead(h)
			if other := c.undisturbed(false); other != nil {
				other.disturbed = true
				c.killHead(other)
			}
		}},
	)
	host = "127.0.0.1"
	if err := c.network(); err != nil {
		c.Logf("no head is cut off: cannot make networks here: %v", err)
		for _, h := range c.heads {
			h.at = net.JoinHostPort(host, strconv.Itoa(matrixtest.Ports(c.T, 1)[0]))
		}
		return host
	}
	c.kinds = append(c.kinds, &chaosKind{name: "the leader is cut off", loses: chaosHead, leads: true, mute: true, head: c.cutHead}, &chaosKind{name: "a head is cut off", loses: chaosHead, mute: true, head: c.cutHead})
	host, _, _ = net.SplitHostPort(c.heads[0].at)
	return host[:strings.LastIndexByte(host, '.')] + ".254"
}

// network gives each head a network namespace, and a wire between it and this one.
func (c *chaos) network() error {
	id := os.Getpid()
	bridge, subnet := fmt.Sprint("mxb", id), fmt.Sprintf("10.231.%d", id%250)
	run := func(words ...string) error {
		if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(words, " "), err, out)
		}
		return nil
	}
	if err := run("link", "add", bridge, "type", "bridge"); err != nil {
		return err
	}
	c.Cleanup(func() { _ = run("link", "del", bridge) })
	for _, words := range []string{"addr add " + subnet + ".254/24 dev " + bridge, "link set " + bridge + " up"} {
		if err := run(strings.Fields(words)...); err != nil {
			return err
		}
	}
	for i, h := range c.heads {
		space, wire := fmt.Sprintf("mx%d-%d", id, i), fmt.Sprintf("mxv%d-%d", id, i)
		if err := run("netns", "add", space); err != nil {
			return err
		}
		c.Cleanup(func() { _ = run("netns", "del", space) })
		address := fmt.Sprintf("%s.%d", subnet, i+1)
		for _, words := range []string{
			"link add " + wire + " type veth peer name eth0 netns " + space,
			"link set " + wire + " master " + bridge + " up",
			"-n " + space + " addr add " + address + "/24 dev eth0",
			"-n " + space + " link set eth0 up",
			"-n " + space + " link set lo up",
		} {
			if err := run(strings.Fields(words)...); err != nil {
				return err
			}
		}
		h.space, h.wire, h.at = space, wire, net.JoinHostPort(address, "7070")
	}
	return nil
}

// beginHead types the run's command.
func (c *chaos) beginHead(h *headSeat) {
	c.begun++
	c.Setenv("MATRIX_CHAOS_PROCESS", "head")
	h.name, h.limit = fmt.Sprint("head", c.begun), c.limit
	args := []string{"run", c.dir, "out=" + c.out, "shards=2", "display=plain", fmt.Sprint("budget.usd=", c.limit), "--serve"}
	if h.at != "" {
		var peers []string
		for _, p := range c.heads {
			peers = append(peers, p.at)
		}
		args = append(args, h.at, "--peers", strings.Join(peers, ","), "--store", h.store)
	}
	h.process = c.beginIn(h.space, h.name, args...)
}

// headFinished reports whether a head has ended because the run has. It sees to one that
// has ended as it should, and begins another one in its place.
func (c *chaos) headFinished(h *headSeat) bool {
	if h.process == nil || !h.isOver() {
		return false
	}
	switch code := h.cmd.ProcessState.ExitCode(); {
	case code == 0:
		c.finishing = true
		return true
	case code == 4 && strings.Contains(h.said(), "the budget of the run is spent"):
		if paid := c.spent(); h.limit == c.limit && paid > c.limit/2 { // else it was told of an end before
			c.Logf("%5.1fs the budget of %.4f USD is spent, of which the service has had %.4f", time.Since(c.began).Seconds(), c.limit, paid)
			c.limit *= 1.5
			c.calmed = time.Time{}
		}
	case code != h.exits || h.exits == 0:
		c.give("%s has ended with exit code %d, want %d:\n%s", h.name, code, h.exits, h.said())
	case code == 1 && !strings.Contains(h.said(), "The disk is full"):
		c.give("%s has ended:\n%s", h.name, h.said())
	}
	h.process, h.exits, h.disturbed = nil, 0, true
	c.resize(chaosDisk)
	c.later(100*time.Millisecond, 3*time.Second, func() {
		c.beginHead(h)
		if c.rng.IntN(4) == 0 { // it is killed while it begins
			h.exits = -1
			c.later(0, 300*time.Millisecond, func() { _ = h.cmd.Process.Kill() })
			return
		}
		c.awaitHead(h)
	})
	return false
}

// awaitHead takes a head for undisturbed once it is at work, or stands by.
func (c *chaos) awaitHead(h *headSeat) {
	c.later(300*time.Millisecond, 300*time.Millisecond, func() {
		if h.process == nil || h.isOver() {
			return // it is seen to
		}
		there := c.look()
		if len(c.heads) > 1 && there {
			_, there = c.there[h.cmd.Process.Pid]
		}
		if h.disturbed = !there; h.disturbed {
			c.awaitHead(h)
		}
	})
}

// undisturbed is a head that nothing disturbs, or that one which leads; nil where there
// is none.
func (c *chaos) undisturbed(leads bool) *headSeat {
	free := slices.DeleteFunc(slices.Clone(c.heads), func(h *headSeat) bool {
		return h.process == nil || h.isOver() || h.disturbed || leads && c.there[h.cmd.Process.Pid] != heads.Leading
	})
	if len(free) == 0 {
		return nil
	}
	return free[c.rng.IntN(len(free))]
}

func (c *chaos) killHead(h *headSeat) { c.endHead(h, syscall.SIGKILL, -1) }
func (c *chaos) stopHead(h *headSeat) { c.endHead(h, syscall.SIGTERM, 4) }

func (c *chaos) endHead(h *headSeat, by syscall.Signal, exits int) {
	h.exits = exits
	_ = h.cmd.Process.Signal(by)
}

// cutHead has nothing come to a head or from it.
func (c *chaos) cutHead(h *headSeat) {
	set := func(to string) {
		if out, err := exec.Command("ip", "link", "set", h.wire, to).CombinedOutput(); err != nil {
			c.Fatalf("%v: %s", err, out)
		}
	}
	set("down")
	c.later(3*time.Second, 2*pastLease, func() {
		set("up")
		c.awaitHead(h)
	})
}

// fullDisk leaves hardly any room, until the head has ended.
func (c *chaos) fullDisk(h *headSeat) {
	var at syscall.Statfs_t
	if err := syscall.Statfs(c.disk, &at); err != nil {
		c.Fatal(err)
	}
	h.exits = 1
	c.resize(int(at.Blocks-at.Bfree)*int(at.Bsize)>>10 + 64)
}

// resize makes the disk so many KiB large.
func (c *chaos) resize(kib int) {
	if c.disk == "" {
		return
	}
	if out, err := exec.Command("mount", "-o", fmt.Sprintf("remount,size=%dk", kib), c.disk).CombinedOutput(); err != nil {
		c.Fatalf("%v: %s", err, out)
	}
}

// paused is for how long nobody was seen to lead.
type paused struct {
	since   time.Time // nobody did
	longest time.Duration
}

func (p *paused) saw(now time.Time, leads bool) {
	if leads || p.since.IsZero() {
		if !p.since.IsZero() {
			p.longest = max(p.longest, now.Sub(p.since))
		}
		p.since = now
	}
}

func (p paused) String() string {
	return fmt.Sprintf("for %.1fs at most nobody was seen to lead", p.longest.Seconds())
}
