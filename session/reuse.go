package session

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"matrix/cluster"
	"matrix/internal/bundle"
	"matrix/internal/reuse"
	"matrix/internal/rundir"
	"matrix/llm"
	"matrix/registry"
	"matrix/spec"
)

// Reusing is an earlier run whose replies are reused.
type Reusing struct {
	Run     string // its folder
	Replies int64  // that it has
}

// past has the replies of earlier runs, for the calls of this one, wherever they are made.
type past struct {
	index *reuse.Index
	runs  []Reusing
	dirs  []earlier // until they are taken in
}

// earlier is the folder of an earlier run; err says why it cannot be read.
type earlier struct {
	path string
	dir  *rundir.Dir
	err  error
}

// front has the models of kinds answer from p, which need not be open before the first call.
func front(kinds *registry.Registry, p llm.Past) *registry.Registry {
	with := *kinds
	with.Front = func(name string, m llm.Model) llm.Model { return llm.Reuse(name, m, p) }
	return &with
}

// Reply implements llm.Past.
func (p *past) Reply(ctx context.Context, call, hash string, seed *int64) (*llm.Reply, error) {
	return p.index.Reply(ctx, call, hash, seed)
}

// find opens the folders of the runs whose replies are to be reused by the run in own.
// taken says that this one has an index, which may have some of them already.
func (p *past) find(ctx context.Context, folders []string, own string, taken bool) error {
	for _, path := range folders {
		e := earlier{path: spec.Shorten(path)}
		if same(path, own) {
			return spec.Usagef("reuse: %s is the folder of this run itself, which goes on with what it has", e.path)
		}
		e.dir, e.err = rundir.OpenOutput(ctx, path)
		if e.err == nil && e.dir.Busy() {
			e.err = errors.Join(&spec.UsageError{Err: fmt.Errorf("the run in %s is under way: stop it with matrix stop, or wait for its end", e.path)}, e.dir.Close())
			e.dir = nil
		}
		if e.err != nil && !taken {
			return fmt.Errorf("reuse: %w", e.err)
		}
		p.dirs = append(p.dirs, e)
	}
	return nil
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// open opens the index in a folder, and takes in what it has not yet.
func (p *past) open(ctx context.Context, folder string, o reuse.Options, warn func(error)) (err error) {
	if p.index, err = reuse.Open(folder, o); err != nil {
		return err
	}
	for _, e := range p.dirs {
		n, has, err := p.index.Has(e.path)
		if err == nil && !has {
			if err = e.err; err == nil {
				n, err = p.index.Add(ctx, e.path, e.dir.Ended(ctx))
			}
		}
		if err != nil {
			return fmt.Errorf("reuse: %w", err)
		}
		if n == 0 && warn != nil {
			warn(fmt.Errorf("reuse: %s has no reply that another run can reuse: its tasks have no calls of models, or a version made them that did not note what was asked", e.path))
		}
		p.runs = append(p.runs, Reusing{e.path, n})
	}
	return p.closeDirs()
}

func (p *past) closeDirs() error {
	var errs []error
	for _, e := range p.dirs {
		if e.dir != nil {
			errs = append(errs, e.dir.Close())
		}
	}
	p.dirs = nil
	return errors.Join(errs...)
}

func (p *past) close() error {
	err := p.closeDirs()
	if p.index != nil {
		err = errors.Join(err, p.index.Close())
	}
	return err
}

// openPast makes ready that replies of earlier runs are reused, where the config says so.
func (s *Session) openPast(ctx context.Context, o Options) error {
	if s.past == nil {
		return nil
	}
	return s.past.open(ctx, filepath.Join(s.Folder.Path, rundir.ReuseDir), reuse.Options{Again: o.Retry}, o.Warn)
}

// findPast looks for the earlier runs whose replies are to be reused, before anything
// is written.
func (s *Session) findPast(ctx context.Context, c *spec.Config, o Options) error {
	if s.past == nil {
		return nil
	}
	_, err := os.Stat(filepath.Join(s.Folder.Path, rundir.ReuseDir))
	return s.past.find(ctx, c.Run.Reuse, s.Folder.Path, !o.Fresh && !errors.Is(err, fs.ErrNotExist))
}

// Past takes in the replies of the runs in folders, to see what of a run is there already;
// nil where there is no folder. They are handed out once each until close.
func Past(ctx context.Context, folders []string, warn func(error)) (_ llm.Past, close func() error, err error) {
	if len(folders) == 0 {
		return nil, func() error { return nil }, nil
	}
	dir, err := os.MkdirTemp("", "matrix-reuse-")
	if err != nil {
		return nil, nil, err
	}
	p := &past{}
	close = func() error { return errors.Join(p.close(), os.RemoveAll(dir)) }
	if err = p.find(ctx, folders, dir, false); err == nil {
		err = p.open(ctx, dir, reuse.Options{Scratch: true}, warn)
	}
	if err != nil {
		return nil, nil, errors.Join(err, close())
	}
	return p, close, nil
}

// checkFrom refuses to go on with tasks of a run that is under way, or is this one.
func (s *Session) checkFrom(ctx context.Context, c *spec.Config) error {
	from := c.Run.From.Run
	if from == "" {
		return nil
	}
	if same(from, s.Folder.Path) {
		return spec.Usagef("from.run: %s is the folder of this run itself: choose another with out=DIR", spec.Shorten(from))
	}
	d, err := rundir.OpenOutput(ctx, from)
	if err != nil {
		return fmt.Errorf("from.run: %w", err)
	}
	busy := d.Busy()
	if err := d.Close(); err != nil {
		return err
	}
	if busy {
		return spec.Usagef("from.run: the run in %s is under way: stop it with matrix stop, or wait for its end", spec.Shorten(from))
	}
	return nil
}

// Reusing are the earlier runs whose replies are reused.
func (s *Session) Reusing() []Reusing {
	if s.past == nil {
		return nil
	}
	return s.past.runs
}

// Of a run with workers the head hands out the replies: each has to be handed out once.
// So that several can be asked for at once, each call has the address of its first digit.
const (
	pastAddress = "h.past."
	pastDigits  = "0123456789abcdef"
)

// pastQuestion asks for the reply to a call, from a byte on: one may be longer than a frame.
type pastQuestion struct {
	Call string `json:"call"`
	Hash string `json:"hash"`
	Seed *int64 `json:"seed,omitempty"`
	From int    `json:"from,omitempty"`
}

// serve answers workers over a network.
func (p *past) serve(on cluster.Requester, most int) (stops []func(), err error) {
	for _, digit := range pastDigits {
		stop, err := on.Answer(pastAddress+string(digit), func(body []byte) []byte { return p.answer(body, most) })
		if err != nil {
			return stops, err
		}
		stops = append(stops, stop)
	}
	return stops, nil
}

// answer is how many bytes the reply has, and behind that those asked for; nothing
// where the head cannot tell.
func (p *past) answer(body []byte, most int) []byte {
	var q pastQuestion
	if json.Unmarshal(body, &q) != nil || q.From < 0 {
		return nil
	}
	b, err := p.index.Take(q.Call, q.Hash, q.Seed) // the same one each time
	if err != nil || q.From > len(b) {
		return nil
	}
	all := len(b)
	b = b[q.From:]
	return append(binary.BigEndian.AppendUint64(nil, uint64(all)), b[:min(len(b), most-8)]...)
}

// remotePast is that of a run whose head is elsewhere.
type remotePast struct{ from bundle.Asker }

// Reply implements llm.Past.
func (p *remotePast) Reply(ctx context.Context, call, hash string, seed *int64) (*llm.Reply, error) {
	var body []byte
	digit := pastDigits[:1]
	if call != "" && strings.Contains(pastDigits, call[:1]) {
		digit = call[:1]
	}
	for {
		q, err := json.Marshal(pastQuestion{call, hash, seed, len(body)})
		if err != nil {
			return nil, err
		}
		a, err := p.from.Request(ctx, pastAddress+digit, q)
		if err != nil {
			return nil, err
		}
		if len(a) < 8 {
			return nil, &llm.Error{Kind: llm.Fatal, Msg: "the head of the run cannot say whether there is a reply that can be reused", Hint: "the head says why"}
		}
		all := int(binary.BigEndian.Uint64(a))
		if all == 0 {
			return nil, nil
		}
		if body = append(body, a[8:]...); len(body) >= all || len(a) == 8 {
			return reuse.Decode(body)
		}
	}
}
