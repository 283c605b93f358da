package run

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"matrix"
)

// TooManyFailed is what a run stops with where nearly every task fails at the
// same role, and what it ends with where none went well: that is a fault of the
// config, not of the rows.
type TooManyFailed struct {
	Role   string       // empty: the tasks could not begin, or no single role failed them
	Failed int64        // tasks
	Of     int64        // steps, as many at least
	Cause  string       // of the last of them
	Fault  matrix.Fault // of the last of them
	Ended  bool         // nothing is pending: the run has come to its end
}

func (e *TooManyFailed) Error() string {
	switch {
	case e.Ended && e.Role == "":
		return fmt.Sprintf("no task is done, the last one failed with: %s", e.Cause)
	case e.Ended:
		return fmt.Sprintf("role %s: all of its %d steps failed their tasks, the last one with: %s", e.Role, e.Failed, strings.TrimPrefix(e.Cause, e.Role+": "))
	}
	at, n := "role "+e.Role, fmt.Sprintf("the last %d steps all failed their tasks", e.Failed)
	if e.Role == "" {
		at, n = "dataset", fmt.Sprintf("the last %d tasks could not begin", e.Failed)
	}
	if e.Of > e.Failed {
		n = fmt.Sprintf("%d of %d steps failed their tasks", e.Failed, e.Of)
	}
	return fmt.Sprintf("%s: %s, the last one with: %s", at, n, strings.TrimPrefix(e.Cause, e.Role+": "))
}

// When a role has failed too many: so many in a row, or a share of so many; and
// at the end of the run so many where none went well.
const (
	failedInRow = 100
	failedOf    = 200
	failedAll   = 10
)

// tally counts how the steps of a role end in this session. A step that failed
// its task counts; one whose error the flow handled went well, and what the flow
// itself fails is not a failure of the role.
type tally struct {
	share float64 // of failed ones that is too much; 0 for never
	well  atomic.Int64
	row   atomic.Int64 // failed since the last that went well

	mu     sync.Mutex
	failed int64
	cause  string         // of the last that failed
	fault  matrix.Fault   // of the same
	broken *TooManyFailed // set once, and for good
}

// add counts a step with the outcome o, nil where the task goes on. Once too
// many have failed, no further one does: err then says so, and the step must not
// be committed. first is true for the step with which it was too many.
func (y *tally) add(role string, o *matrix.Outcome) (first bool, err *TooManyFailed) {
	if o == nil || o.Status != matrix.Failed || o.Fault == matrix.FaultFlow {
		y.well.Add(1)
		if y.row.Load() != 0 {
			y.row.Store(0)
		}
		return false, nil
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.broken != nil {
		return false, y.broken
	}
	y.failed++
	y.cause, y.fault = o.Cause, o.Fault
	row, of := y.row.Add(1), y.failed+y.well.Load()
	switch {
	case y.share <= 0:
	case row >= failedInRow:
		y.broken = &TooManyFailed{Role: role, Failed: row, Of: row, Cause: o.Cause, Fault: o.Fault}
	case of >= failedOf && float64(y.failed) >= y.share*float64(of):
		y.broken = &TooManyFailed{Role: role, Failed: y.failed, Of: of, Cause: o.Cause, Fault: o.Fault}
	}
	return y.broken != nil, nil
}

// sum is how many steps went well and failed, and of the last that failed why.
func (y *tally) sum() (well, failed int64, cause string, fault matrix.Fault) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.well.Load(), y.failed, y.cause, y.fault
}

// endedWell returns a *TooManyFailed where the run has come to its end and this
// session has shown a fault of the config: a role that failed all of its steps,
// or no task that is done. The queue hands out nothing any more.
func (r *Run) endedWell() error {
	if r.cfg.MaxFailed <= 0 {
		return nil
	}
	var last RoleProgress
	roles := r.roles()
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		x := roles[name]
		if x.Failed >= failedAll && x.Well == 0 {
			return &TooManyFailed{Role: name, Failed: x.Failed, Of: x.Failed, Cause: x.Cause, Fault: x.Fault, Ended: true}
		}
		if x.Failed > 0 {
			last = x
		}
	}
	if last.Failed == 0 {
		_, last.Failed, last.Cause, last.Fault = r.begins.sum()
	}
	if t := r.Totals(); last.Failed > 0 && t.Done == 0 {
		return &TooManyFailed{Failed: t.Failed, Of: t.Failed, Cause: last.Cause, Fault: last.Fault, Ended: true}
	}
	return nil
}

// Causes counts failed tasks by kind of cause, or dropped ones by kind of reason. It holds the first maxCauses
// kinds; what comes later is counted under "".
type Causes map[string]Cause

// Cause is one kind of cause.
type Cause struct {
	Count   int64  `json:"count"`
	Example string `json:"example,omitempty"` // the first task that ended so
	Words   string `json:"words,omitempty"`   // the cause of that one, shortened, where the kind leaves something out
}

const (
	maxCauses = 50
	maxKind   = 240 // bytes of a kind
)

// room is kind, or "" where there is no room for one more.
func (c Causes) room(kind string) string {
	if _, ok := c[kind]; !ok && len(c) >= maxCauses {
		return ""
	}
	return kind
}

// Add counts a task that has failed or was dropped.
func (c Causes) Add(t *matrix.Task) {
	k := c.room(kindOf(t.Outcome.Cause))
	x := c[k]
	x.Count++
	if x.Example == "" && k != "" && len(t.ID) <= maxKind {
		x.Example = t.ID
		if x.Words = shortened(strings.Join(strings.Fields(t.Outcome.Cause), " ")); x.Words == k {
			x.Words = ""
		}
	}
	c[k] = x
}

// plus adds the causes that another shard has counted.
func (c Causes) plus(o Causes) {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		into := c.room(k)
		x := c[into]
		x.Count += o[k].Count
		if x.Example == "" && into != "" {
			x.Example, x.Words = o[k].Example, o[k].Words
		}
		c[into] = x
	}
}

// subtract undoes what Add counted for a task that is live again.
func (c Causes) subtract(t *matrix.Task) {
	k := c.room(kindOf(t.Outcome.Cause))
	x, ok := c[k]
	if !ok {
		return // counted by a version that did not know causes
	}
	if x.Count--; x.Example == t.ID {
		x.Example, x.Words = "", ""
	}
	if c[k] = x; x.Count <= 0 {
		delete(c, k)
	}
}

// CauseCount is a kind of cause, as a list has it.
type CauseCount struct {
	Cause   string `json:"cause"` // empty for all other kinds together
	Count   int64  `json:"count"`
	Example string `json:"example,omitempty"`
	Words   string `json:"words,omitempty"` // of the example, where the kind leaves something out
}

// kindOf is what the causes of one kind have in common: numbers become #, names
// with numbers in them and what stands in quotes become ..., and of a long one
// the beginning and the end are kept.
func kindOf(cause string) string {
	var b strings.Builder
	rs := []rune(strings.Join(strings.Fields(cause[:min(len(cause), 4<<10)]), " "))
	word := func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' }
	for i := 0; i < len(rs); {
		r := rs[i]
		switch {
		case r == '"' || r == '`' || r == '\'' && (i == 0 || !word(rs[i-1])):
			end := slices.Index(rs[i+1:], r)
			if end < 0 {
				b.WriteRune(r)
				i++
				continue
			}
			b.WriteRune(r)
			b.WriteString("...")
			b.WriteRune(r)
			i += end + 2
		case word(r):
			j, digits, letters := i, 0, 0
			for ; j < len(rs) && (word(rs[j]) || rs[j] == '-' && j+1 < len(rs) && word(rs[j+1])); j++ {
				if unicode.IsDigit(rs[j]) {
					digits++
				} else {
					letters++
				}
			}
			switch {
			case digits == 0:
				b.WriteString(string(rs[i:j]))
			case letters == 0 || digits >= 4 && j-i >= 8, rs[i] == '0' && rs[i+1] == 'x': // a number; an id
				b.WriteByte('#')
			default:
				last := rune(0)
				for _, r := range rs[i:j] {
					if unicode.IsDigit(r) {
						r = '#'
					}
					if r != '#' || last != '#' {
						b.WriteRune(r)
					}
					last = r
				}
			}
			i = j
		default:
			b.WriteRune(r)
			i++
		}
	}
	return shortened(b.String())
}

// shortened keeps the beginning and the end of a long text.
func shortened(k string) string {
	if len(k) <= maxKind {
		return k
	}
	head, tail := k[:maxKind*2/3], k[len(k)-maxKind/3+5:]
	return strings.ToValidUTF8(head, "") + " ... " + strings.ToValidUTF8(tail, "")
}

// List gives the kinds, the most frequent first; tasks, of so many, of which no kind
// is known, and those of kinds that did not fit, come last, under "".
func (c Causes) List(tasks int64) []CauseCount {
	var all []CauseCount
	for _, k := range slices.Sorted(maps.Keys(c)) {
		if k != "" {
			all = append(all, CauseCount{k, c[k].Count, c[k].Example, c[k].Words})
			tasks -= c[k].Count
		}
	}
	slices.SortStableFunc(all, func(a, b CauseCount) int { return cmp.Compare(b.Count, a.Count) })
	if tasks > 0 {
		all = append(all, CauseCount{Count: tasks})
	}
	return all
}
