package session

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"matrix"
	"matrix/cluster/natsnet"
	"matrix/internal/packed"
	"matrix/spec"
)

// Offer is what a standing head tells its workers, every few seconds and where it changes:
// the runs that there are.
type Offer struct {
	Version string       `json:"version"` // of its program
	Runs    []OfferedRun `json:"runs"`
}

// OfferedRun is a run that workers of a standing head join.
type OfferedRun struct {
	Name     string          `json:"name"`
	Join     string          `json:"join"`   // the line to join it by
	Begun    int64           `json:"begun"`  // another one each time that its head begins
	Weight   int             `json:"weight"` // of its share in the slots of a worker
	Priority matrix.Priority `json:"priority"`
}

// logsAddress is where a worker of a standing head is asked for what it has said, with
// its id behind.
const logsAddress = "l."

// How a worker of a standing head tries again to join a run that it could not act for.
const joinAgain = 15 * time.Second

// several are the runs that a worker of a standing head acts for.
type several struct {
	j     *Joined
	slots *slots
	soft  context.Context // ends where it is to begin nothing more
	hard  context.Context // and where nothing lands any more
	wg    sync.WaitGroup

	mu   sync.Mutex
	runs map[string]*joinedRun // by its line
	said []string              // the last lines
}

// joinedRun is one of them.
type joinedRun struct {
	OfferedRun
	lane   *lane
	leave  context.CancelFunc
	acted  int64   // as which one of its heads it was acted for last
	joined *Joined // once it has joined, while it acts
	going  bool    // it is to be left
	over   bool
	why    error // it could not act, or not any more
	since  time.Time
}

// runSeveral acts for the runs of a standing head until it is to end.
func (j *Joined) runSeveral(ctx context.Context) error {
	hard, cut := context.WithCancel(ctx)
	defer cut()
	soft, drain := context.WithCancel(matrix.Stopping(ctx))
	defer drain()
	defer context.AfterFunc(j.ended, drain)()
	s := &several{j: j, slots: newSlots(j.o.Slots), soft: soft, hard: hard, runs: map[string]*joinedRun{}}
	say := j.o.Tell
	j.o.Tell = func(line string) { s.say(say, line) }
	offers := make(chan Offer, 1)
	var last sync.Mutex // the addresses have a goroutine each
	for _, address := range []string{"all", j.ID} {
		stop, err := j.net.Receive(headTellsAddress+address, func(frame []byte) {
			var o Offer
			if json.Unmarshal(frame, &o) != nil {
				return
			}
			last.Lock()
			defer last.Unlock()
			select {
			case <-offers: // an older one
			default:
			}
			offers <- o
		})
		if err != nil {
			return err
		}
		defer stop()
	}
	stop, err := j.net.Answer(logsAddress+j.ID, func([]byte) []byte { return packed.Write(s.lines()) })
	if err != nil {
		return err
	}
	defer stop()
	j.mu.Lock()
	j.several = s
	j.mu.Unlock()
	j.set(func(p *presence) { p.State = workerWorking })
	telling, end := context.WithCancel(context.WithoutCancel(ctx))
	var tells sync.WaitGroup
	tells.Go(func() { j.presence(telling) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for going := true; going; {
		select {
		case <-soft.Done():
			going = false
		case <-j.net.Lost():
			drain()
		case o := <-offers:
			if o.Version != j.o.Version {
				j.end(&VersionError{j.o.Version, o.Version})
				continue
			}
			s.take(o.Runs)
		case <-tick.C:
			s.again()
		}
	}
	j.set(func(p *presence) { p.State = workerDraining })
	s.wg.Wait()
	end()
	tells.Wait()
	if err = j.net.Err(); err == nil {
		err = context.Cause(j.ended)
	}
	j.leave(err)
	return err
}

// say tells a person a line, and keeps it for who asks.
func (s *several) say(to func(string), line string) {
	const most = 1000
	s.mu.Lock()
	s.said = append(s.said, time.Now().UTC().Format("2006-01-02T15:04:05Z ")+line)
	s.said = s.said[max(0, len(s.said)-most):]
	s.mu.Unlock()
	to(line)
}

// lines are the last ones, as many as a frame holds.
func (s *several) lines() []string {
	const most = 256 << 10 // bytes
	s.mu.Lock()
	defer s.mu.Unlock()
	size, from := 0, len(s.said)
	for from > 0 && size+len(s.said[from-1]) < most {
		from--
		size += len(s.said[from])
	}
	return slices.Clone(s.said[from:])
}

// take joins the runs that are new and leaves those that are there no more.
func (s *several) take(runs []OfferedRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[string]bool{}
	for _, o := range runs {
		there[o.Join] = true
		r := s.runs[o.Join]
		if r == nil {
			r = &joinedRun{lane: s.slots.lane(o.Weight, o.Priority), over: true, since: time.Now()}
			s.runs[o.Join] = r
		}
		r.OfferedRun = o
		r.lane.set(o.Weight, o.Priority)
		switch {
		case r.over && r.acted != o.Begun:
			s.begin(r)
		case !r.going:
			r.acted = o.Begun
		}
	}
	for line, r := range s.runs {
		switch {
		case there[line]:
		case !r.over:
			r.going = true
			r.leave()
		default:
			r.lane.close()
			delete(s.runs, line)
		}
	}
}

// again joins runs that are offered still and were left a while ago: what went wrong may have
// passed, and the end of one head may be taken for that of the next.
func (s *several) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runs {
		lacking := errors.As(r.why, new(*LackingError)) || errors.As(r.why, new(*spec.UsageError))
		if r.over && !lacking && time.Since(r.since) > joinAgain {
			s.begin(r)
		}
	}
}

// begin acts for a run in a goroutine of its own. s.mu is held.
func (s *several) begin(r *joinedRun) {
	soft, leave := context.WithCancel(s.soft)
	r.over, r.going, r.why, r.leave, r.acted = false, false, nil, leave, r.Begun
	o := s.j.o
	o.Slots, o.Away, o.lane = 0, 0, r.lane
	tell, name := s.j.o.Tell, r.Name
	o.Tell = func(line string) { tell(name + ": " + line) }
	if log := s.j.o.Log; log != nil {
		o.Log = func(line string) { s.say(log, name+": "+line) }
	}
	line := r.Join
	s.wg.Go(func() {
		defer leave()
		err := s.act(soft, r, line, o)
		if soft.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil
		}
		if err != nil {
			o.Tell(err.Error())
		}
		s.mu.Lock()
		r.over, r.joined, r.why, r.since = true, nil, err, time.Now()
		s.mu.Unlock()
	})
}

func (s *several) act(soft context.Context, r *joinedRun, line string, o JoinOptions) (err error) {
	if o.Line, err = natsnet.ParseJoin(line); err != nil {
		return err
	}
	one, err := Join(soft, s.j.kinds, o)
	if err != nil {
		return err
	}
	defer one.Close()
	s.mu.Lock()
	r.joined = one
	s.mu.Unlock()
	return one.Run(matrix.WithStopping(s.hard, soft))
}

// show is what all runs are doing here, by the names of the runs that act, and what hinders others.
func (s *several) show(v *Snapshot) (runs []string, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lacks []string
	for _, line := range slices.SortedFunc(maps.Keys(s.runs), func(a, b string) int { return strings.Compare(s.runs[a].Name, s.runs[b].Name) }) {
		r := s.runs[line]
		if r.over && r.why != nil {
			lacks = append(lacks, r.Name+": "+r.why.Error())
		}
		if r.joined == nil {
			continue
		}
		runs = append(runs, r.Name)
		one := r.joined.Snapshot()
		v.NewHops += one.NewHops
		for _, role := range one.Roles {
			role.Name = r.Name + "/" + role.Name
			v.Roles = append(v.Roles, role)
		}
		for _, m := range one.Models {
			m.Name = r.Name + "/" + m.Name
			v.Models = append(v.Models, m)
		}
	}
	return runs, strings.Join(lacks, "; ")
}
