package launch

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

var gpuLine = regexp.MustCompile(`(?m)^GPU (\d+):`)

// visibleGPUs are the GPUs that this process may use, as CUDA_VISIBLE_DEVICES
// names them: env is that variable, where it is set; else the driver is asked.
func visibleGPUs(env string, set bool) []string {
	if set {
		var all []string
		for _, g := range strings.Split(env, ",") {
			if g = strings.TrimSpace(g); g == "" || g == "-1" {
				break // as CUDA: what follows is invisible
			}
			all = append(all, g)
		}
		return all
	}
	out, err := exec.Command("nvidia-smi", "-L").Output()
	if err != nil {
		return nil
	}
	var all []string
	for _, m := range gpuLine.FindAllSubmatch(out, -1) {
		all = append(all, string(m[1]))
	}
	return all
}

// shareGPUs gives each server of each model GPUs of its own: by model, by
// replica. taken are those that other servers have.
func shareGPUs(models []Model, visible, taken []string) (map[string][][]string, error) {
	share := map[string][][]string{}
	next, want, words := 0, 0, []string{}
	for _, m := range models {
		n, _ := m.Serve.gpus()
		if n > 0 {
			want += n * m.replicas()
			words = append(words, fmt.Sprintf("model %q %d x %d", m.Name, m.replicas(), n))
		}
	}
	left := slices.DeleteFunc(slices.Clone(visible), func(g string) bool { return slices.Contains(taken, g) })
	if want > len(left) {
		are := thereAre(visible)
		if n := len(visible) - len(left); n > 0 {
			are += fmt.Sprintf(", of which servers that are up have %d", n)
		}
		return nil, fmt.Errorf("%d GPUs are asked for (%s), and %s: lower replicas or gpus; gpus: 0 does without",
			want, strings.Join(words, ", "), are)
	}
	for _, m := range models {
		n, _ := m.Serve.gpus()
		for range m.replicas() {
			share[m.Name] = append(share[m.Name], left[next:next+n])
			next += n
		}
	}
	return share, nil
}

func thereAre(gpus []string) string {
	switch len(gpus) {
	case 0:
		return "none is visible here (CUDA_VISIBLE_DEVICES, nvidia-smi -L)"
	case 1:
		return "one is visible here (" + gpus[0] + ")"
	}
	return fmt.Sprintf("%d are visible here (%s)", len(gpus), strings.Join(gpus, ","))
}
