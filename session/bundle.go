package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"matrix"
	"matrix/agent"
	"matrix/internal/bundle"
	"matrix/registry"
	"matrix/spec"
)

// bundleNote is what a worker is told beside config and files.
type bundleNote struct {
	Limits   matrix.Limits `json:"limits"`   // as the run has them: see run.Run.Limits
	Shards   int           `json:"shards"`   // of the run
	Past     bool          `json:"past"`     // the head has replies of earlier runs
	Withheld []string      `json:"withheld"` // keys of secrets that are not sent
}

// Bundle is what workers need of the plan's run, which has these limits and shards,
// read anew from the disk: its config and the files that it names, without secrets. What other
// processes cannot do is a spec.UsageError. warn is told of files that are too large
// to be sent, and later, once, of a file that has changed meanwhile; nil drops it.
func (p *Plan) Bundle(limits matrix.Limits, shards int, warn func(error)) (*bundle.Bundle, error) {
	c, withheld, err := p.Contents()
	if err != nil {
		return nil, &spec.UsageError{Err: err}
	}
	if c.Note, err = json.Marshal(bundleNote{limits, shards, len(p.Run.Reuse) > 0, withheld}); err != nil {
		return nil, err
	}
	c.Warn = warn
	b, err := bundle.New(c)
	if err != nil {
		return nil, &spec.UsageError{Err: err}
	}
	if warn != nil {
		for _, f := range b.Large {
			warn(fmt.Errorf("%s: %s has %s, and workers are sent %s in all: those act for it that have the same file at the same path, as on a file system that all machines share", f.Key, f.Path, bundle.MiB(f.Size), bundle.MiB(bundle.MaxSent)))
		}
	}
	return b, nil
}

// planFrom builds the plan of a copy, as far as this machine has what it needs.
func planFrom(kinds *registry.Registry, from *bundle.Copy, ask bundle.Asker) (*Plan, *bundleNote, error) {
	var note bundleNote
	if err := json.Unmarshal(from.Note, &note); err != nil {
		return nil, nil, fmt.Errorf("what the run tells its workers cannot be read: %w", err)
	}
	c, err := spec.Load(from.Dir, nil)
	if err != nil {
		return nil, nil, err
	}
	c.Path = "the run's config"
	if note.Past {
		kinds = front(kinds, &remotePast{ask})
	}
	with := *kinds
	with.ReadImage = readImage(from)
	with.Lacking = map[string]error{}
	for _, f := range from.Missing {
		with.Lacking[f.Key] = fmt.Errorf("%s has %s, too large to be sent, and the same file is not there on this machine: put it there, or on a file system that all machines share", f.Path, bundle.MiB(f.Size))
	}
	for _, key := range note.Withheld {
		missing := errors.New("is a secret that is written in the config, and secrets are not sent: write ${env:NAME} in its place, and set NAME on each machine")
		switch section, _, _ := strings.Cut(key, "."); section {
		case "models", "roles":
			with.Lacking[key] = missing
		case "flow", "params", "metrics", "limits": // all roles depend on them
			return nil, nil, spec.Usagef("%s: %w", key, missing)
		}
	}
	p, err := Build(&with, c, registry.ToWork)
	if err != nil {
		return nil, nil, err
	}
	p.Limits = note.Limits
	return p, &note, nil
}

// imageWait is how long a step waits for an image while the head of the run does not
// answer.
const imageWait = 30 * time.Second

// readImage reads images where the run is. While nobody answers there, the task comes
// back later.
func readImage(from *bundle.Copy) agent.ReadImage {
	return func(ctx context.Context, path string) ([]byte, error) {
		limited, cancel := context.WithTimeout(ctx, imageWait)
		defer cancel()
		content, err := from.Image(limited, path)
		if err == nil || ctx.Err() != nil || errors.As(err, new(*bundle.RefusedError)) {
			return content, err
		}
		return nil, &matrix.RetryError{Err: fmt.Errorf("%s: %w", path, err), After: time.Second, Free: true}
	}
}
