package sandbox

import (
	"errors"
	"os"
	"path/filepath"
)

// mostLayers is how many layers a lease may have before those whose commands are
// committed become one, and how many before all but the newest do: a kernel stacks 500.
const (
	mostLayers = 16
	allLayers  = 300
)

// fold makes one layer of those that nobody goes back to.
func (n *entry) fold() error {
	s := &n.state
	if len(s.layers) <= mostLayers {
		return nil
	}
	var into []int
	for i := 2; i+1 < len(s.layers) && (s.layers[i+1].At <= n.committed || len(s.layers) > allLayers); i++ {
		into = append(into, s.layers[i].N)
	}
	if len(into) == 0 {
		return nil
	}
	l := line{Folded: into}
	if err := n.write(l); err != nil {
		return err
	}
	s.apply(l)
	if err := n.refold(n.journal, into); err != nil { // the layers that are left are not its state
		return errors.Join(err, n.reset())
	}
	return nil
}

// refold moves layers into the one below, and goes on where that was left off.
func (n *entry) refold(j *journal, layers []int) error {
	for _, l := range layers {
		if err := mergeLayer(j.layer(n.state.layers[1].N), j.layer(l)); err != nil {
			return err
		}
	}
	return nil
}

// mergeLayer moves what layer from has into the layer below it, as an overlay would
// show both, and removes from. It may be called again after it was cut short.
func mergeLayer(into, from string) error {
	entries, err := os.ReadDir(from)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		src, dst := filepath.Join(from, e.Name()), filepath.Join(into, e.Name())
		there, err := os.Lstat(dst)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		switch {
		case err != nil: // from alone has it
		case e.IsDir() && there.IsDir() && !opaque(src):
			if err := mergeLayer(dst, src); err != nil {
				return err
			}
			continue
		case e.IsDir() && !there.IsDir() && !opaque(src): // below it is a file, or nothing any more
			if err := setOpaque(src); err != nil {
				return err
			}
			fallthrough
		default:
			if err := removeTree(dst); err != nil {
				return err
			}
		}
		if err := os.Rename(src, dst); err != nil {
			return err
		}
	}
	if err := likeDir(into, from); err != nil {
		return err
	}
	return os.Remove(from)
}
