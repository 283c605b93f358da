package jslog_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"matrix"
	"matrix/cluster/jslog"
	"matrix/local"
	"matrix/matrixtest"
)

const quick = 10 * time.Millisecond

// read replays a log, and returns what is in it.
func read(t testing.TB, l *jslog.Log) (groups []string) {
	t.Helper()
	if err := l.Replay(func(group []byte) error {
		if group == nil {
			groups = nil
		} else {
			groups = append(groups, string(group))
		}
		return nil
	}); err != nil {
		t.Fatalf("replay: %v", err)
	}
	return groups
}

func add(t testing.TB, l *jslog.Log, groups ...string) {
	t.Helper()
	for _, g := range groups {
		if err := l.Append([]byte(g))(); err != nil {
			t.Fatalf("append %q: %v", g, err)
		}
	}
}

// api makes a request of the JetStream API, and returns the answer.
func api(t testing.TB, nc *nats.Conn, what, request string) (answer map[string]any) {
	t.Helper()
	for {
		m, err := nc.Request("$JS.API."+what, []byte(request), 2*time.Second)
		if errors.Is(err, nats.ErrTimeout) {
			continue // there is no leader
		}
		if err == nil {
			err = json.Unmarshal(m.Data, &answer)
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return answer
	}
}

// firstAndLast are the sequences of what a stream holds.
func firstAndLast(t testing.TB, nc *nats.Conn, stream string) (first, last uint64) {
	t.Helper()
	state, _ := api(t, nc, "STREAM.INFO."+stream, "")["state"].(map[string]any)
	f, _ := state["first_seq"].(float64)
	n, _ := state["last_seq"].(float64)
	return uint64(f), uint64(n)
}

// until waits for something that is bound to come.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// gate holds messages back that a test lets go.
type gate struct {
	mu   sync.Mutex
	shut func(m *nats.Msg) bool
	held []func()
}

func (g *gate) publish(nc *nats.Conn, m *nats.Msg) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil && g.shut(m) {
		m.Data = slices.Clone(m.Data)
		g.held = append(g.held, func() { _ = nc.PublishMsg(m) })
		return nil
	}
	return nc.PublishMsg(m)
}

// with is what is held back from now on.
func (g *gate) with(shut func(m *nats.Msg) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

func is(group string) func(m *nats.Msg) bool {
	return func(m *nats.Msg) bool { return string(m.Data) == group }
}

// What a writer sent behind a group that was lost may come to stand behind the claim of
// the next one: it is not read, and its writer was not told that it is durable.
func TestStrayGroup(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, quick}
	nc := o.connect(t, 0)
	stray := &gate{}
	a := o.open(t, "x", stray.publish)
	read(t, a)
	add(t, a, "a0")
	stray.with(func(m *nats.Msg) bool { return len(m.Data) > 0 })
	lost, late := a.Append([]byte("lost")), a.Append([]byte("stray"))

	claim := &gate{}
	claim.with(func(m *nats.Msg) bool { return !strings.HasSuffix(m.Header.Get("Group"), "/0") })
	b := o.open(t, "x", claim.publish)
	done := make(chan []string)
	go func() { done <- read(t, b) }()
	_, before := firstAndLast(t, nc, "x")
	if before > 2*jslog.Window+1 {
		t.Fatalf("the log ends at %d before anybody else claims it", before)
	}
	until(t, "the claim begins", func() bool {
		_, last := firstAndLast(t, nc, "x")
		return last == jslog.Window+2 // a's claim, a0 and the first message of b's
	})
	stray.mu.Lock()
	for _, send := range stray.held {
		send()
	}
	stray.shut = nil
	stray.mu.Unlock()
	for _, wait := range []func() error{lost, late} {
		if err := wait(); !errors.Is(err, local.ErrFenced) {
			t.Errorf("the group of a writer that was fenced: got %v, want %v", err, local.ErrFenced)
		}
	}
	m := api(t, nc, "STREAM.MSG.GET.x", fmt.Sprintf(`{"seq":%d}`, jslog.Window+3))
	if got, _ := m["message"].(map[string]any); got["data"] != "c3RyYXk=" {
		t.Fatalf("behind the claim stands %v, and the test wants the stray group there", m)
	}
	claim.with(nil)
	if got := <-done; !slices.Equal(got, []string{"a0"}) {
		t.Errorf("the next writer read %q", got)
	}
	add(t, b, "b0")
	if got := read(t, o.open(t, "x", nil)); !slices.Equal(got, []string{"a0", "b0"}) {
		t.Errorf("the log has %q", got)
	}
}

// Whoever asks for a position that its successor has trimmed is fenced.
func TestZombieOfTrimmedPosition(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, quick}
	nc := o.connect(t, 0)
	g := &gate{}
	a := o.open(t, "x", g.publish)
	read(t, a)
	add(t, a, "a0")
	g.with(is("a1"))
	wait := a.Append([]byte("a1"))
	b := o.open(t, "x", nil)
	read(t, b)
	add(t, b, "b0", "b1")
	before := b.Next()
	add(t, b, "b2")
	b.Trim(before)
	until(t, "the trim", func() bool {
		first, _ := firstAndLast(t, nc, "x")
		return first == before
	})
	g.with(nil)
	if err := wait(); !errors.Is(err, local.ErrFenced) {
		t.Errorf("append: got %v, want %v", err, local.ErrFenced)
	}
	if got := read(t, o.open(t, "x", nil)); !slices.Equal(got, []string{"b2"}) {
		t.Errorf("the log has %q", got)
	}
}

// A trim takes what stands before a position, and never all.
func TestTrim(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, quick}
	nc := o.connect(t, 0)
	l := o.open(t, "x", nil)
	read(t, l)
	l.Trim(0)
	l.Trim(1)
	add(t, l, "a", "b")
	before := l.Next()
	l.Trim(before + 100)
	until(t, "the trim", func() bool {
		first, last := firstAndLast(t, nc, "x")
		if last != before-1 || first > last {
			t.Fatalf("the log has %d to %d, want the last group, at %d, at least", first, last, before-1)
		}
		return first == last
	})
	add(t, l, "c")
	if got := read(t, o.open(t, "x", nil)); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("the log has %q", got)
	}
}

// Writers come one after the other while requests, answers and claims are lost, late
// and doubled: nobody's group that was said to be durable is gone, or stands after
// what its successor read.
func TestWritersWithLosses(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, quick}
	lossy := func(int) matrixtest.LogFault {
		return []matrixtest.LogFault{matrixtest.Answered, matrixtest.Answered, matrixtest.Late, matrixtest.RequestLost, matrixtest.AnswerLost}[rand.IntN(5)]
	}
	const writers, groups = 12, 30
	var told []string
	for w := range writers {
		l := o.open(t, "x", faulty(true, lossy))
		before := read(t, l)
		if len(before) < len(told) || !slices.Equal(before[:len(told)], told) {
			t.Fatalf("writer %d read\n%q\nand it was told of\n%q", w, before, told)
		}
		told = before
		waits := make([]func() error, groups)
		for i := range waits {
			waits[i] = l.Append(fmt.Appendf(nil, "%d/%d ", w, i))
		}
		for i := range rand.IntN(groups) {
			if err := waits[i](); err != nil {
				t.Fatal(err)
			}
			told = append(told, fmt.Sprintf("%d/%d ", w, i))
		}
		t.Cleanup(func() { // of those that nobody waited for
			for i, wait := range waits {
				if err := wait(); err == nil && !slices.Contains(told, fmt.Sprintf("%d/%d ", w, i)) {
					t.Errorf("group %d of writer %d was said to be durable, and is gone", i, w)
				}
			}
		})
	}
	told = read(t, o.open(t, "x", nil))
	seen := map[string]int{}
	for _, g := range told {
		w, n, _ := strings.Cut(g, "/")
		if fmt.Sprint(seen[w])+" " != n {
			t.Errorf("%s does not belong where it stands in %q", g, told)
		}
		seen[w]++
	}
}

// Servers that have lost what they said was durable are believed in no more.
func TestLoss(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, 5 * time.Millisecond}
	nc := o.connect(t, 0)
	damaged := func(t *testing.T, err error) {
		t.Helper()
		if !errors.As(err, new(*local.DamagedError)) {
			t.Errorf("got %v, want damage", err)
		}
	}
	replay := func(l *jslog.Log) error { return l.Replay(func([]byte) error { return nil }) }
	// make makes a stream whose messages can be deleted, with three groups.
	begin := func(t *testing.T, name string) *jslog.Log {
		t.Helper()
		if a := api(t, nc, "STREAM.CREATE."+name, `{"name":"`+name+`","subjects":["log.`+name+`"],"retention":"limits","storage":"file","num_replicas":1,"allow_direct":true}`); a["error"] != nil {
			t.Fatal(a)
		}
		l := o.open(t, name, nil)
		read(t, l)
		add(t, l, "1", "2", "3")
		return l
	}
	t.Run("the stream is gone", func(t *testing.T) {
		l := begin(t, "gone")
		api(t, nc, "STREAM.DELETE.gone", "")
		damaged(t, l.Append([]byte("4"))())
		damaged(t, l.Append([]byte("5"))()) // for good
	})
	t.Run("the stream has begun anew", func(t *testing.T) {
		l := begin(t, "anew")
		api(t, nc, "STREAM.DELETE.anew", "")
		o.open(t, "anew", nil)
		damaged(t, l.Append([]byte("4"))())
	})
	t.Run("the stream goes before it is read", func(t *testing.T) {
		begin(t, "before")
		l := o.open(t, "before", nil)
		api(t, nc, "STREAM.DELETE.before", "")
		damaged(t, replay(l))
	})
	t.Run("one in the middle is gone", func(t *testing.T) {
		begin(t, "middle")
		if a := api(t, nc, "STREAM.MSG.DELETE.middle", fmt.Sprintf(`{"seq":%d}`, jslog.Window+2)); a["success"] != true {
			t.Fatal(a)
		}
		damaged(t, replay(o.open(t, "middle", nil)))
	})
	forged := func(t *testing.T, name string, headers func(epoch string, last uint64) nats.Header) {
		t.Helper()
		l := begin(t, name)
		_, last := firstAndLast(t, nc, name)
		m := &nats.Msg{Subject: "log." + name, Data: []byte("4"), Header: headers(l.Epoch(), last)}
		if _, err := nc.RequestMsg(m, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		damaged(t, replay(o.open(t, name, nil)))
	}
	sum := fmt.Sprintf("%08x", matrix.Sum([]byte("4")))
	t.Run("a changed byte", func(t *testing.T) {
		forged(t, "byte", func(epoch string, last uint64) nats.Header {
			return nats.Header{"Group": {epoch + "/" + strconv.FormatUint(last, 10)}, "Sum": {"12345678"}}
		})
	})
	t.Run("a message that is no group", func(t *testing.T) {
		forged(t, "none", func(string, uint64) nats.Header { return nats.Header{"Sum": {sum}} })
	})
	t.Run("a number too far", func(t *testing.T) {
		forged(t, "number", func(epoch string, last uint64) nats.Header {
			return nats.Header{"Group": {epoch + "/" + strconv.FormatUint(last+1, 10)}, "Sum": {sum}}
		})
	})
	if got := read(t, o.open(t, "middle2", nil)); len(got) > 0 {
		t.Errorf("an empty log has %q", got)
	}
}

// A stream that would lose what a log needs is refused.
func TestStreamThatIsThere(t *testing.T) {
	t.Parallel()
	s := start(t, 1, 64<<10)
	nc := s.connect(t, 0)
	open := func(name string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l, err := jslog.Open(ctx, nc, jslog.Options{Stream: name, Subject: "log." + name})
		if err == nil {
			l.Close()
		}
		return err
	}
	for name, config := range map[string]string{
		"":             `"allow_direct":true`,
		"max_age":      `"allow_direct":true,"max_age":1000000000000`,
		"max_msgs":     `"allow_direct":true,"max_msgs":1000`,
		"max_bytes":    `"allow_direct":true,"max_bytes":1000000`,
		"storage":      `"allow_direct":true,"storage":"memory"`,
		"retention":    `"allow_direct":true,"retention":"workqueue"`,
		"allow_direct": `"allow_direct":false`,
		"subjects":     `"allow_direct":true,"subjects":["log.subjects","other"]`,
	} {
		stream := "s" + name
		if name == "subjects" {
			config = strings.ReplaceAll(config, "log.subjects", "log.s2")
			stream = "s2"
		}
		if !strings.Contains(config, `"subjects"`) {
			config += `,"subjects":["log.` + stream + `"]`
		}
		if a := api(t, nc, "STREAM.CREATE."+stream, `{"name":"`+stream+`","num_replicas":1,`+config+`}`); a["error"] != nil {
			t.Fatal(a)
		}
		err := open(stream)
		if name == "" && err != nil || name != "" && (err == nil || !strings.Contains(err.Error(), name)) {
			t.Errorf("a stream with %s: got %v", config, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if l, err := jslog.Open(ctx, nc, jslog.Options{Stream: "three", Subject: "log.three", Replicas: 3}); err == nil {
		l.Close()
		t.Error("one server made a stream of three replicas")
	}
}

// Nothing waits for ever: not for a server that is no longer there, once the log is closed, nor to be opened.
func TestClose(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, quick}
	l := o.open(t, "x", nil)
	if err := l.Append([]byte("a"))(); err == nil {
		t.Error("a log was appended to before it was replayed")
	}
	read(t, l)
	add(t, l, "a")
	unread := o.open(t, "x", nil)
	o.all[0].Shutdown()
	o.all[0].WaitForShutdown()
	wait := l.Append([]byte("b"))
	replayed := make(chan error)
	go func() { replayed <- unread.Replay(func([]byte) error { return nil }) }()
	l.Close()
	if err := wait(); err == nil || errors.Is(err, local.ErrFenced) {
		t.Errorf("append to a log that was closed: got %v", err)
	}
	unread.Close()
	if err := <-replayed; err == nil {
		t.Error("a log was replayed from a server that is not there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), quick)
	defer cancel()
	if _, err := jslog.Open(ctx, l.Conn(), jslog.Options{Stream: "x", Subject: "log.x"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open: got %v, want %v", err, context.DeadlineExceeded)
	}
}

// A server that is started again has all, and the writer goes on.
func TestServerStartsAgain(t *testing.T) {
	t.Parallel()
	o := &opener{start(t, 1, 64<<10), 1, quick}
	o.options[0].Port = freePorts(t, 1)[0]
	o.all[0].Shutdown()
	o.all[0].WaitForShutdown()
	o.run(t, 0)
	if !o.all[0].ReadyForConnections(time.Minute) {
		t.Fatal("the server does not come up")
	}
	l := o.open(t, "x", nil)
	read(t, l)
	var want []string
	var waits []func() error
	var done atomic.Int64
	for round := range 3 {
		for i := range 20 {
			want = append(want, fmt.Sprint(round, "/", i))
			waits = append(waits, l.Append([]byte(want[len(want)-1])))
		}
		if round == 1 {
			o.all[0].Shutdown()
			o.all[0].WaitForShutdown()
			o.run(t, 0)
		}
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		done.Add(1)
	}
	if got := read(t, o.open(t, "x", nil)); !slices.Equal(got, want) {
		t.Errorf("the log has %q, want %q", got, want)
	}
}
