package workers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// kube starts workers as a Deployment, through kubectl. The line to join by is in a Secret
// beside it. The environment of its pods is that of a Secret matrix-keys, where the
// namespace has one.
type kube struct{ namespace string }

const (
	kubeJoin  = "/etc/matrix"
	kubeKeys  = "matrix-keys"
	kubeGrace = 300   // seconds that a worker has to end what it has in hand
	kubeUser  = 65532 // of the image, and of any that has no user of its own
)

var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func newKube(namespace string) (Launcher, error) {
	if !namespaceName.MatchString(namespace) {
		return nil, errors.New("want the name of a namespace behind k8s:")
	}
	return &kube{namespace}, nil
}

// ErrNoImage says that pods need a container image.
var ErrNoImage = errors.New("pods need a container image that has this program")

func (l *kube) Start(ctx context.Context, g *Group, n int, s Spec) error {
	if s.Image == "" {
		return ErrNoImage
	}
	join, err := readJoin(s.Join)
	if err != nil {
		return err
	}
	// What kubectl's configuration calls current may be another when they are ended.
	if out, err := tool(ctx, " config", nil, "kubectl", "config", "view", "--minify", "--output=jsonpath={.current-context}"); err == nil {
		g.Context = strings.TrimSpace(out)
	} else if !errors.As(err, new(*ToolError)) || ctx.Err() != nil {
		return err // else it is in a pod, and has no configuration
	}
	if err := g.Save(); err != nil {
		return err
	}
	objects, err := json.Marshal(l.objects(g, max(1, n), s, join))
	if err != nil {
		return err
	}
	// On the server's side, since else kubectl writes the Secret into an annotation, too.
	_, err = l.kubectl(ctx, g, bytes.NewReader(objects), "apply", "--server-side", "--field-manager=matrix", "--filename=-")
	return err
}

type object = map[string]any

// objects are a Secret and a Deployment.
func (l *kube) objects(g *Group, n int, s Spec, join string) object {
	labels := object{"app.kubernetes.io/name": "matrix", "app.kubernetes.io/component": "worker", "app.kubernetes.io/instance": g.ID, "app.kubernetes.io/managed-by": "matrix"}
	meta := object{"name": "matrix-" + g.ID, "namespace": l.namespace, "labels": labels}
	args := s.Command(Worker{Join: kubeJoin + "/join", Name: nameMark})
	for i, a := range args {
		if args[i] = strings.ReplaceAll(a, "$(", "$$("); a == nameMark {
			args[i] = "$(POD_NAME)"
		}
	}
	pod := object{
		"automountServiceAccountToken":  false,
		"terminationGracePeriodSeconds": kubeGrace,
		"securityContext": object{"runAsNonRoot": true, "runAsUser": kubeUser, "runAsGroup": kubeUser, "fsGroup": kubeUser,
			"seccompProfile": object{"type": "RuntimeDefault"}},
		"containers": []object{{
			"name": "worker", "image": s.Image, "args": args,
			"env": []object{
				{"name": "POD_NAME", "valueFrom": object{"fieldRef": object{"fieldPath": "metadata.name"}}},
				{"name": "HOME", "value": "/tmp"},
			},
			"envFrom":         []object{{"secretRef": object{"name": kubeKeys, "optional": true}}},
			"securityContext": object{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": object{"drop": []string{"ALL"}}},
			"volumeMounts":    []object{{"name": "join", "mountPath": kubeJoin, "readOnly": true}, {"name": "tmp", "mountPath": "/tmp"}},
		}},
		"volumes": []object{
			{"name": "join", "secret": object{"secretName": meta["name"], "defaultMode": 0o440}},
			{"name": "tmp", "emptyDir": object{}},
		},
	}
	return object{"apiVersion": "v1", "kind": "List", "items": []object{
		{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "stringData": object{"join": join + "\n"}},
		{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": object{
			"replicas": n,
			"selector": object{"matchLabels": object{"app.kubernetes.io/instance": g.ID}},
			"template": object{"metadata": object{"labels": labels}, "spec": pod},
		}},
	}}
}

// kubectl runs kubectl in the namespace and context of g; in may hold secrets.
func (l *kube) kubectl(ctx context.Context, g *Group, in *bytes.Reader, args ...string) (string, error) {
	argv := []string{"kubectl", "--namespace=" + l.namespace}
	if g.Context != "" {
		argv = append(argv, "--context="+g.Context)
	}
	if in == nil {
		in = bytes.NewReader(nil)
	}
	return tool(ctx, " "+args[0], in, append(argv, args...)...)
}

func (l *kube) List(ctx context.Context, g *Group) ([]Unit, error) {
	out, err := l.kubectl(ctx, g, nil, "get", "pods", "--selector=app.kubernetes.io/instance="+g.ID, "--output=json")
	if err != nil {
		return nil, err
	}
	var pods struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Status   struct {
				Phase, Reason, Message string
				ContainerStatuses      []struct {
					State struct {
						Waiting, Terminated *struct{ Reason, Message string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &pods); err != nil {
		return nil, fmt.Errorf("read what kubectl wrote: %w", err)
	}
	var all []Unit
	for _, p := range pods.Items {
		u := Unit{Name: p.Metadata.Name, Where: p.Spec.NodeName, State: Waiting, Text: strings.TrimSpace(strings.ToLower(p.Status.Phase) + " " + p.Status.Reason)}
		switch p.Status.Phase {
		case "Running":
			u.State = Running
		case "Succeeded":
			u.State = Ended
		case "Failed":
			u.State = Failed
		}
		for _, c := range p.Status.ContainerStatuses {
			for _, why := range []*struct{ Reason, Message string }{c.State.Waiting, c.State.Terminated} {
				if why != nil && !u.State.Over() {
					u.State, u.Text = Waiting, strings.TrimSpace(why.Reason+" "+why.Message)
				}
			}
		}
		all = append(all, u)
	}
	return all, nil
}

func (l *kube) Stop(ctx context.Context, g *Group) error {
	args := []string{"delete", "deployment,secret", "--selector=app.kubernetes.io/instance=" + g.ID, "--ignore-not-found", "--cascade=foreground"}
	if _, err := l.kubectl(ctx, g, nil, append(args, "--wait=true")...); err == nil || ctx.Err() == nil {
		return err
	}
	end, done := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer done()
	if _, err := l.kubectl(end, g, nil, append(args, "--wait=false")...); err != nil {
		return err
	}
	_, err := l.kubectl(end, g, nil, "delete", "pods", "--selector=app.kubernetes.io/instance="+g.ID, "--ignore-not-found", "--grace-period=1")
	return err
}
