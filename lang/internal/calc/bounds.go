package calc

import (
	"errors"
	"fmt"
	"strings"
)

const (
	MaxText  = 64 << 20 // bytes of text that one evaluation may build
	MaxParts = 1 << 20  // values inside a result
)

// One evaluation or rendering may do so much work, whatever it computes: some
// seconds at the most. The unit is what TextWork bytes cost; an element of a
// list counts as ElementWork, and a round of a loop or a call as RoundWork.
const (
	MaxWork     = 64 << 20
	TextWork    = 4
	ElementWork = 4
	RoundWork   = 32
)

var (
	ErrTooLong = fmt.Errorf("the text would be longer than %d MiB", MaxText>>20)
	ErrWork    = errors.New("it computes too much: loops over large lists or texts, inside of loops; give it less, or leave it to a command agent")
)

// Work counts what an evaluation or a rendering has done.
type Work int

// Spend counts n more; the error is ErrWork where that is too much.
func (w *Work) Spend(n int) error {
	if *w += Work(n); *w > MaxWork {
		return ErrWork
	}
	return nil
}

// Fits reports whether a text of size bytes and n times each more is not too long.
func Fits(size, n, each int) error {
	if n > 0 && each > 0 && (size > MaxText || n > (MaxText-size)/each) {
		return ErrTooLong
	}
	return nil
}

func ManyParts(what string) error {
	return fmt.Errorf("%s would have more than %d elements", what, MaxParts)
}

// Splits is the error of splitting s into too many.
func Splits(s, sep string) error {
	if len(s) > MaxParts && strings.Count(s, sep) >= MaxParts {
		return ManyParts("the list")
	}
	return nil
}

// Wordy is that of splitting s by white space.
func Wordy(s string) error {
	if len(s) < 2*MaxParts {
		return nil
	}
	n := 0
	for range strings.FieldsSeq(s) {
		n++
	}
	if n > MaxParts {
		return ManyParts("the list")
	}
	return nil
}

// Repeat is s so many times; none for less than one.
func Repeat(s string, n int) (string, error) {
	n = max(n, 0)
	if len(s) > 0 && n > MaxText/len(s) {
		return "", ErrTooLong
	}
	return strings.Repeat(s, n), nil
}

// Upper is s in large letters, of which some small ones are several.
func Upper(s string) string { return strings.ToUpper(wider.Replace(s)) }

// wider are the small letters that are several large ones.
var wider = strings.NewReplacer("ß", "SS", "ŉ", "ʼN", "ﬀ", "FF", "ﬁ", "FI", "ﬂ", "FL", "ﬃ", "FFI", "ﬄ", "FFL", "ﬅ", "ST", "ﬆ", "ST")

// Joined is the elements of a list, each as show has it, with a text between them.
func Joined(l []any, by string, show func(any) (string, error)) (string, error) {
	var b strings.Builder
	for i, v := range l {
		s, err := show(v)
		if err != nil {
			return "", err
		}
		if i > 0 {
			b.WriteString(by)
		}
		if b.Len()+len(s) > MaxText {
			return "", ErrTooLong
		}
		b.WriteString(s)
	}
	return b.String(), nil
}
