package launch

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// This program is a supervisor, a server or a launcher where MATRIX_TEST_BE says so.
func TestMain(m *testing.M) {
	switch os.Getenv("MATRIX_TEST_BE") {
	case "server": // the supervisor has its environment from us
		if len(os.Args) > 1 && os.Args[1] == "keep" {
			break
		}
		os.Exit(serveFake(os.Args[1:]))
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "keep":
			os.Exit(Supervise(os.Stdin))
		case "up":
			os.Exit(upFake(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

// serveFake is a server: PORT, then what it does beside answering.
//
//	deaf     does not end by SIGTERM
//	dies     ends at once, with words
//	late     is ready after 100 ms
//	silent   never ready
//	fork     has a child, which has another that left the process group
func serveFake(args []string) int {
	port := args[0]
	does := func(what string) bool { return slices.Contains(args[1:], what) }
	if does("child") {
		if does("fork") {
			c := exec.Command(os.Args[0], port, "child", "deaf")
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := c.Start(); err != nil {
				return 1
			}
		}
		signal.Ignore(syscall.SIGTERM)
		select {}
	}
	if does("dies") {
		fmt.Println("cannot load the weights")
		fmt.Fprintln(os.Stderr, "out of memory")
		return 3
	}
	if does("deaf") {
		signal.Ignore(syscall.SIGTERM)
	}
	if does("fork") {
		if err := exec.Command(os.Args[0], port, "child", "fork").Start(); err != nil {
			return 1
		}
	}
	began := time.Now()
	fmt.Println("serving with GPUs", os.Getenv("CUDA_VISIBLE_DEVICES"))
	ln, err := net.Listen("tcp", Host+":"+port)
	if err != nil {
		fmt.Println(err)
		return 4
	}
	_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if does("silent") || does("late") && time.Since(began) < 100*time.Millisecond {
			http.Error(w, "loading", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, os.Getpid())
	}))
	return 1
}

// fake is a model that serveFake serves.
func fake(name string, does ...string) Model {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Model{Name: name, Dir: os.TempDir(), Serve: Serve{
		Command: append([]string{exe, "{port}"}, does...), Env: map[string]string{"MATRIX_TEST_BE": "server"},
	}}
}

func local(t *testing.T, s State, models ...Model) *Local {
	t.Helper()
	l, err := NewLocal(supervisor(), s, models)
	if err != nil {
		t.Fatal(err)
	}
	l.grace = 300 * time.Millisecond
	return l
}

func supervisor() []string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return []string{exe, "keep"}
}

// upFake keeps servers with children up until it is killed.
func upFake(dir string) int {
	s := State{dir}
	m := fake("m", "fork", "deaf")
	l, err := NewLocal(supervisor(), s, []Model{m})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	l.grace = 300 * time.Millisecond
	g := &Group{Launcher: l, State: s, Models: []Model{m}, pace: hasty}
	fmt.Println(g.Run(background, nil))
	return 1
}

// alive are the processes of the servers in a state.
func alive(s State) []int { return marked(s.Dir + "#") }

// until waits for something to be so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// published are the endpoints of a model that discovery would find.
func published(s State, model string) []string {
	b, _ := os.ReadFile(s.Endpoints(model))
	var all []string
	for _, l := range strings.Split(string(b), "\n") {
		if l != "" && !strings.HasPrefix(l, "#") {
			all = append(all, l)
		}
	}
	return all
}

// parents of a process: its supervisor first.
func parent(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	n, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
