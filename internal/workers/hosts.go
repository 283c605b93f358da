package workers

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// host is a line of a file of hosts.
type host struct {
	name   string // as ssh takes it: HOST, USER@HOST, ssh://USER@HOST:PORT or a Host of its config
	slots  int    // 0: not said
	labels []string
}

// readHosts reads a file of hosts:
//
//	# a comment
//	gpu01 slots=64 label gpu=h100 label zone=a
//	user@10.0.0.7
func readHosts(file string) ([]host, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []host
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		h, err := readHost(words)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		all = append(all, h)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: names no host; want one a line: HOST [slots=N] [label KEY=VALUE]", file)
	}
	return all, nil
}

func readHost(words []string) (host, error) {
	h := host{name: words[0]}
	if strings.HasPrefix(h.name, "-") || strings.Contains(h.name, "=") {
		return h, fmt.Errorf("%q is no host: a line begins with one", h.name)
	}
	for i := 1; i < len(words); i++ {
		key, value, ok := strings.Cut(words[i], "=")
		switch {
		case key == "slots" && ok:
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return h, fmt.Errorf("slots=%s: want a whole number, 1 or more", value)
			}
			h.slots = n
		case words[i] == "label" && i+1 < len(words) && strings.Contains(words[i+1], "="):
			i++
			h.labels = append(h.labels, words[i])
		case words[i] == "label":
			return h, fmt.Errorf("label: want KEY=VALUE behind it, as label gpu=h100")
		default:
			return h, fmt.Errorf("%q: want slots=N or label KEY=VALUE behind the host", words[i])
		}
	}
	return h, nil
}
