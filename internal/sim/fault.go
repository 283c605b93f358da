package sim

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"matrix/internal/textfile"
)

// Kinds of Fault.
const (
	Reject   = "reject"   // 429, with Retry-After where it is set
	Error    = "error"    // another status: 500, 502, 503, 529, ...
	Reset    = "reset"    // the connection is reset before there is an answer
	Stall    = "stall"    // the work is done, and the answer never comes; of a stream, nothing after its first piece
	Slow     = "slow"     // it takes Factor times as long
	Truncate = "truncate" // the connection ends in the middle of the answer
	Garbage  = "garbage"  // the answer is not JSON
	Down     = "down"     // nothing listens, and what was connected is cut; its cache is empty when it returns
)

var faultKinds = []string{Reject, Error, Reset, Stall, Slow, Truncate, Garbage, Down}

// Fault is something that goes wrong for a while. What several faults hit gets
// the first of them.
type Fault struct {
	Kind       string        `yaml:"kind" required:"true" doc:"reject (429), error (another status), reset, stall, slow, truncate, garbage (not JSON), or down (nothing listens)." enum:"reject,error,reset,stall,slow,truncate,garbage,down"`
	From       time.Duration `yaml:"from" doc:"When it begins." default:"0s"`
	Until      time.Duration `yaml:"until" doc:"When it ends; 0s for never." default:"0s"`
	Share      float64       `yaml:"share" doc:"Share of the calls that it hits, above 0 and up to 1. Of down, share of the replicas, the last of them." default:"1"`
	Status     int           `yaml:"status" doc:"Of error, and of reject: the HTTP status; 0 for 500 and 429." default:"0"`
	RetryAfter time.Duration `yaml:"retry_after" doc:"Of reject and error: what the header Retry-After says; 0s for no such header." default:"0s"`
	Factor     float64       `yaml:"factor" doc:"Of slow: how many times as long it takes; 0 for 10." default:"0"`
	Replicas   []int         `yaml:"replicas" doc:"Which replicas it hits, from 0; all where the list is empty."`
}

// UnmarshalText reads KIND[:SHARE][@FROM[-[UNTIL]]][,KEY=VALUE]..., such as
// reject:0.6@0s-20s,retry_after=1s.
func (f *Fault) UnmarshalText(text []byte) error {
	*f = Fault{Share: 1}
	spec, options, _ := strings.Cut(string(text), ",")
	spec, when, timed := strings.Cut(spec, "@")
	kind, share, shared := strings.Cut(spec, ":")
	f.Kind = strings.TrimSpace(kind)
	wrong := func(what string) error {
		return fmt.Errorf("%q: %s; want KIND:SHARE@FROM-UNTIL,key=value, such as reject:0.6@0s-20s,retry_after=1s", text, what)
	}
	var err error
	if shared {
		if f.Share, err = strconv.ParseFloat(share, 64); err != nil {
			return wrong(fmt.Sprintf("share %q is not a number", share))
		}
	}
	if timed {
		from, until, ends := strings.Cut(when, "-")
		if f.From, err = time.ParseDuration(from); err != nil {
			return wrong(fmt.Sprintf("%q is not a duration", from))
		}
		if ends && until != "" {
			if f.Until, err = time.ParseDuration(until); err != nil {
				return wrong(fmt.Sprintf("%q is not a duration", until))
			}
		}
	}
	for kv := range strings.SplitSeq(options, ",") {
		if kv = strings.TrimSpace(kv); kv == "" {
			continue
		}
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "retry_after":
			f.RetryAfter, err = time.ParseDuration(v)
		case "status":
			f.Status, err = strconv.Atoi(v)
		case "factor":
			f.Factor, err = strconv.ParseFloat(v, 64)
		case "replica", "replicas": // 0+2+5
			f.Replicas = nil
			for n := range strings.SplitSeq(v, "+") {
				var i int
				if i, err = strconv.Atoi(n); err != nil {
					break
				}
				f.Replicas = append(f.Replicas, i)
			}
		default:
			return wrong(fmt.Sprintf("there is no key %q%s: want retry_after, status, factor or replica", k, hint(k, "retry_after", "status", "factor", "replica")))
		}
		if err != nil {
			return wrong(fmt.Sprintf("%s: %q cannot be read", k, v))
		}
	}
	return nil
}

// complete checks f and fills it.
func (f *Fault) complete(replicas int) error {
	if !slices.Contains(faultKinds, f.Kind) {
		return fmt.Errorf("there is no fault %q%s: want one of %s", f.Kind, hint(f.Kind, faultKinds...), strings.Join(faultKinds, ", "))
	}
	if f.Kind == Reject && f.Status == 0 {
		f.Status = 429
	}
	if f.Kind == Error && f.Status == 0 {
		f.Status = 500
	}
	if f.Kind == Slow && f.Factor == 0 {
		f.Factor = 10
	}
	switch {
	case f.From < 0 || f.Until < 0 || f.RetryAfter < 0:
		return errors.New("times are 0s or more")
	case f.Until > 0 && f.Until <= f.From:
		return fmt.Errorf("ends at %v, and begins at %v", f.Until, f.From)
	case !(f.Share > 0 && f.Share <= 1):
		return fmt.Errorf("share: got %v, want more than 0 and up to 1; leave out a fault that hits nothing", f.Share)
	case (f.Kind == Reject || f.Kind == Error) && (f.Status < 400 || f.Status > 599):
		return fmt.Errorf("status: got %d, want 400 to 599", f.Status)
	case f.Kind == Slow && !(f.Factor > 0 && f.Factor <= 1e6):
		return fmt.Errorf("factor: got %v, want more than 0", f.Factor)
	}
	for _, r := range f.Replicas {
		if r < 0 || r >= replicas {
			return fmt.Errorf("replicas: there is no replica %d: there are %d, counted from 0", r, replicas)
		}
	}
	if f.Kind == Down && len(f.Replicas) == 0 && f.Share < 1 {
		n := min(replicas, max(1, int(f.Share*float64(replicas)+0.5)))
		for r := replicas - n; r < replicas; r++ {
			f.Replicas = append(f.Replicas, r)
		}
	}
	return nil
}

// Hits reports whether f is on for a replica at a time.
func (f *Fault) Hits(replica int, at time.Duration) bool {
	return at >= f.From && (f.Until == 0 || at < f.Until) && (len(f.Replicas) == 0 || slices.Contains(f.Replicas, replica))
}

// stormFaults are the faults of a storm: a name, and @TIME where it does not
// begin at 5 s.
func stormFaults(storm string, replicas int) ([]Fault, error) {
	if storm == "" {
		return nil, nil
	}
	name, when, timed := strings.Cut(storm, "@")
	from := 5 * time.Second
	if timed {
		d, err := time.ParseDuration(when)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("got %q, want NAME@TIME, such as outage@20s", storm)
		}
		from = d
	}
	storms := map[string][]Fault{
		"429": {{Kind: Reject, From: from, Until: from + 20*time.Second, Share: 0.6, RetryAfter: time.Second}},
		"outage": {
			{Kind: Reset, From: from, Until: from + 5*time.Second, Share: 0.5},
			{Kind: Error, From: from, Until: from + 5*time.Second, Share: 1, Status: 503},
		},
		"mixed": {
			{Kind: Stall, From: from, Share: 0.01},
			{Kind: Truncate, From: from, Share: 0.02},
			{Kind: Error, From: from, Share: 0.03, Status: 500},
		},
		"minute": {{Kind: Down, From: from, Until: from + time.Minute, Share: 1}},
		"half":   {{Kind: Down, From: from, Share: 0.5}},
	}
	faults, ok := storms[name]
	if !ok {
		return nil, fmt.Errorf("there is no storm %q: want 429, outage, mixed, minute or half", name)
	}
	if name == "half" && replicas < 2 {
		return nil, errors.New("half of the replicas die: want replicas: 2 or more")
	}
	for i := range faults {
		if err := faults[i].complete(replicas); err != nil {
			return nil, err
		}
	}
	return faults, nil
}

// maxFaults bounds a file of faults.
const maxFaults = 4 << 20

// ReadFaults reads a YAML file that holds a list of faults, each as a text or
// as its parts.
func ReadFaults(path string) ([]Fault, error) {
	text, err := textfile.Read(path, maxFaults)
	if err != nil {
		return nil, err
	}
	var entries []ast.Node
	if err := yaml.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%s: want a list of faults: %w", path, err)
	}
	faults := make([]Fault, len(entries))
	for i, n := range entries {
		f := &faults[i]
		if s, ok := n.(*ast.StringNode); ok {
			err = f.UnmarshalText([]byte(s.Value))
		} else {
			type parts Fault // without the methods
			p := parts{Share: 1}
			err = yaml.NodeToValue(n, &p, yaml.Strict())
			*f = Fault(p)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", path, i+1, err)
		}
	}
	return faults, nil
}
