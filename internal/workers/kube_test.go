package workers

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program that is called as kubectl is: it keeps what it is to apply.
const playedKubectl = `#!/bin/sh
dir=$(dirname "$0")
echo "kubectl $*" >>"$dir/calls"
case "$*" in
config*) [ ! -f "$dir/inside" ] || { echo "error: current-context must exist in order to minify" >&2; exit 1; }; echo here;;
*apply*) cat >"$dir/applied"; [ ! -f "$dir/refuse" ] || { echo 'error: namespaces "data" not found' >&2; exit 1; };;
*get*pods*) cat "$dir/pods" 2>/dev/null || echo '{"items": []}';;
esac
`

const playedPods = `{"items": [
	{"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}},
	{"metadata": {"name": "b"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}},
	{"metadata": {"name": "c"}, "spec": {"nodeName": "n2"}, "status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}},
	{"metadata": {"name": "d"}, "spec": {}, "status": {"phase": "Pending"}},
	{"metadata": {"name": "e"}, "spec": {"nodeName": "n2"}, "status": {"phase": "Failed", "reason": "Evicted"}}]}`

func TestKubePlayed(t *testing.T) {
	dir := script(t, "kubectl", playedKubectl)
	p := newPlace(t, "costs $(10)")
	if _, _, err := p.start("k8s:data", 3); !errors.Is(err, ErrNoImage) {
		t.Errorf("got %v, want that there is no image", err)
	}
	p.Image = "registry.example/matrix:1"
	l, g, err := p.start("k8s:data", 3)
	if err != nil {
		t.Fatal(err)
	}
	p.hidden()
	b, _ := os.ReadFile(filepath.Join(dir, "applied"))
	var list struct {
		Items []struct {
			Kind       string
			Metadata   struct{ Name, Namespace string }
			StringData map[string]string
			Spec       struct {
				Replicas int
				Template struct {
					Spec struct {
						Containers []struct {
							Image string
							Args  []string
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(b, &list); err != nil || len(list.Items) != 2 {
		t.Fatalf("got %s and %v", b, err)
	}
	join, deployment := list.Items[0], list.Items[1]
	if join.Kind != "Secret" || join.StringData["join"] != secret+"\n" || join.Metadata.Namespace != "data" {
		t.Errorf("got %+v, want a Secret with the line to join by", join)
	}
	c := deployment.Spec.Template.Spec.Containers[0]
	if got := strings.Join(c.Args, "|"); deployment.Spec.Replicas != 3 || c.Image != p.Image || got != "worker|/etc/matrix/join|$(POD_NAME)|"+p.notes+"|slots 0|costs $$(10)" {
		t.Errorf("got %+v", deployment)
	}
	if err := os.WriteFile(filepath.Join(dir, "pods"), []byte(playedPods), 0o666); err != nil {
		t.Fatal(err)
	}
	units := p.list(l, g)
	if states(units) != "running waiting waiting waiting failed" || units[1].Text != "ImagePullBackOff no such image" || units[4].Text != "failed Evicted" || units[0].Where != "n1" {
		t.Errorf("got %+v", units)
	}
	if again, err := p.Groups(); err != nil || again[len(again)-1].ID != g.ID || again[len(again)-1].Context != "here" { // as another process finds it
		t.Errorf("got %v and %v, want the context", again, err)
	}
	p.stop(l, g)
	calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
	for _, want := range []string{
		"kubectl --namespace=data --context=here apply --server-side --field-manager=matrix --filename=-\n",
		"kubectl --namespace=data --context=here get pods --selector=app.kubernetes.io/instance=" + g.ID + " --output=json\n",
		"kubectl --namespace=data --context=here delete deployment,secret --selector=app.kubernetes.io/instance=" + g.ID + " --ignore-not-found --cascade=foreground --wait=true\n",
	} {
		if !strings.Contains(string(calls), want) {
			t.Errorf("got %s\nwant in it %s", calls, want)
		}
	}
	for _, file := range []string{"inside", "refuse"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	_, g, err = p.start("k8s:data", 1)
	if want := `kubectl apply: exit status 1: error: namespaces "data" not found`; err == nil || err.Error() != want || g.Context != "" {
		t.Errorf("got %v in context %q, want %s", err, g.Context, want)
	}
}

// TestKubeObjects holds what is applied against the schemas of Kubernetes, by the program
// kubernetes-validate.
func TestKubeObjects(t *testing.T) {
	bin := os.Getenv("MATRIX_TEST_KUBERNETES")
	if bin == "" {
		t.Skip("MATRIX_TEST_KUBERNETES is not set (the bin folder of a Python environment with kubernetes-validate): kubectl is played only")
	}
	p := newPlace(t)
	p.Image = "matrix:1"
	g, err := p.New("k8s:data")
	if err != nil {
		t.Fatal(err)
	}
	all := (&kube{"data"}).objects(g, 2, p.Spec, secret)["items"].([]object)
	for _, o := range all {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		validate(t, bin, o["kind"].(string), b)
	}
}

// TestChart renders the Helm chart of this repository with all that it has, and holds it
// against the schemas.
func TestChart(t *testing.T) {
	bin := os.Getenv("MATRIX_TEST_KUBERNETES")
	if bin == "" {
		t.Skip("MATRIX_TEST_KUBERNETES is not set (the bin folder of a Python environment with kubernetes-validate, and helm in it or on PATH): the chart is not rendered")
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if _, err := exec.LookPath("helm"); err != nil {
		t.Skip("no helm is installed here: the chart is not rendered")
	}
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("name: x\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	chart := "../../deploy/helm/matrix"
	render := func(args ...string) ([]byte, error) {
		return exec.Command("helm", append([]string{"template", "coral", chart, "--namespace=data", "--set=image.repository=registry.example/matrix"}, args...)...).CombinedOutput()
	}
	for name, args := range map[string][]string{
		"head and workers": {"--set-file=head.files.config\\.yaml=" + config},
		"workers alone":    {"--set=head.enabled=false,join.secret=mine"},
		"all": {"--set-file=head.files.config\\.yaml=" + config, "--set-json=workers.roles=[\"a\",\"b\"]",
			"--set=metrics.enabled=true,autoscaling.enabled=true,autoscaling.selector.run=coral,workers.slots=64,workers.labels.gpu=h100,head.noWork=true,head.storage.className=fast,head.args={dataset.limit=5}"},
	} {
		b, err := render(args...)
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, b)
			continue
		}
		validate(t, bin, name, b)
	}
	if b, err := render(); err == nil || !strings.Contains(string(b), "head.files has no config.yaml") {
		t.Errorf("got %v and %s, want that there is no config", err, b)
	}
}

func validate(t *testing.T, bin, name string, b []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "object.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "kubernetes-validate"), "--strict", file).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s\n%s", name, err, out, b)
	}
}
