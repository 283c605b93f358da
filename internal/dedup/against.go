package dedup

import (
	"encoding/binary"
	"fmt"
)

// overlap finds runs of words of other corpora. All of them are in memory, 40 bytes a word
// or less.
type overlap struct {
	names map[uint64]uint32 // of the hash of a run, the number of its text
	texts []string          // their names
}

func (o *overlap) find(grams []byte) (name string, found bool) {
	for ; len(grams) >= 8; grams = grams[8:] {
		if i, ok := o.names[binary.LittleEndian.Uint64(grams)]; ok {
			return o.texts[i], true
		}
	}
	return "", false
}

// Against has texts of other corpora found, too, in the place of those of before. each
// calls add for each of them; fingerprint tells what they are, and where it is that of
// before they are read only where that is needed. Of Embedding, only Overlap compares with them.
func (x *Index) Against(fingerprint string, each func(add func(name, text string) error) error) error {
	known := x.state.Against == fingerprint
	if known && x.overlap == nil {
		return nil
	}
	if x.overlap != nil {
		x.overlap = &overlap{names: map[uint64]uint32{}}
	}
	if !known {
		x.state.Against = ""
		if err := x.batch.DeleteRange(documentKey(other), append(documentKey(^uint64(0)), 0), nil); err != nil {
			return err
		}
	}
	id := uint64(other)
	err := each(func(name, text string) error {
		if x.overlap != nil {
			x.overlap.add(name, text, x.signer.o.Overlap)
		}
		if known || x.signer.o.Method == Embedding {
			return nil
		}
		signature := x.signer.Text(text)
		first, _, err := split(signature)
		if err != nil {
			return err
		}
		if like, _, found, err := x.find(first); err != nil || found && like >= other {
			return err
		}
		id++
		if err := x.add(id, name, signature); err != nil {
			return err
		}
		if id%1024 == 0 {
			return x.Commit()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read what texts are compared with: %w", err)
	}
	x.state.Against = fingerprint
	return x.Commit()
}

func (o *overlap) add(name, text string, n int) {
	i := uint32(len(o.texts))
	o.texts = append(o.texts, name)
	ngrams(words(text), n, func(h uint64) {
		if _, ok := o.names[h]; !ok {
			o.names[h] = i
		}
	})
}
