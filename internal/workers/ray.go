package workers

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed ray_job.py
var rayJob []byte

// rayLauncher starts workers as a job of a Ray cluster, one on each bundle of a
// placement group. The program, the script and the line to join by are the files of
// the job, which whoever may use that cluster can read.
type rayLauncher struct {
	address   string // of the dashboard
	resources map[string]float64
}

func newRay(arg string) (Launcher, error) {
	u, err := url.Parse(arg)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("want the address of the cluster's dashboard behind ray:, as http://HOST:8265")
	}
	l := &rayLauncher{resources: map[string]float64{}}
	for name, values := range u.Query() {
		v, err := strconv.ParseFloat(values[len(values)-1], 64)
		if err != nil || v < 0 {
			return nil, fmt.Errorf("%s=%s: want how many of this resource a worker takes, as GPU=1", name, values[len(values)-1])
		}
		l.resources[name] = v
	}
	u.RawQuery = ""
	l.address = strings.TrimRight(u.String(), "/")
	return l, nil
}

func (l *rayLauncher) Start(ctx context.Context, g *Group, n int, s Spec) error {
	join, err := readJoin(s.Join)
	if err != nil {
		return err
	}
	// Nothing but this goes to the cluster, and it stays here no longer than that.
	dir, err := os.MkdirTemp(g.Dir, "job-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(s.Program)
	if err != nil {
		return err
	}
	spec, err := json.Marshal(map[string]any{
		"id": g.ID, "n": max(1, n), "join": join, "resources": l.resources,
		"name": nameMark, "argv": s.Command(Worker{Join: "-", Name: nameMark}),
	})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"matrix": program, "ray_job.py": rayJob, "workers.json": spec} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	_, err = tool(ctx, " job submit", nil, "ray", "job", "submit", "--address", l.address, "--submission-id", g.ID,
		"--working-dir", dir, "--no-wait", "--", "python3", "ray_job.py")
	return err
}

// List knows of the job as a whole: where its workers are, Ray's dashboard says.
func (l *rayLauncher) List(ctx context.Context, g *Group) ([]Unit, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.address+"/api/jobs/"+g.ID, nil)
	if err != nil {
		return nil, err
	}
	headers := map[string]string{} // as the program ray has them
	if h := os.Getenv("RAY_JOB_HEADERS"); h != "" {
		if err := json.Unmarshal([]byte(h), &headers); err != nil {
			return nil, fmt.Errorf("RAY_JOB_HEADERS: want an object of JSON: %w", err)
		}
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var job struct{ Status, Message string }
	switch {
	case res.StatusCode == http.StatusNotFound: // it was never there, or the cluster is another
		return nil, nil
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET %s: %s", req.URL, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(&job); err != nil {
		return nil, fmt.Errorf("GET %s: %w", req.URL, err)
	}
	u := Unit{Name: g.ID, Where: l.address, State: Ended, Text: strings.ToLower(job.Status)}
	switch job.Status {
	case "PENDING":
		u.State = Waiting
	case "RUNNING":
		u.State = Running
	case "FAILED":
		u.State = Failed
		u.Text += ": " + job.Message
	}
	return []Unit{u}, nil
}

// Stop has the job's script tell its workers; Ray gives it 3 s for that, or
// RAY_JOB_STOP_WAIT_TIME_S of its head.
func (l *rayLauncher) Stop(ctx context.Context, g *Group) error {
	all, err := l.List(ctx, g)
	if err != nil || len(all) == 0 || all[0].State.Over() {
		return err
	}
	_, err = tool(ctx, " job stop", nil, "ray", "job", "stop", "--address", l.address, g.ID)
	return err
}
