package monitor

import (
	"encoding/json"
	"net/http"
	"time"
)

// Event is what a viewer is told: one of these.
type Event struct {
	Status *Status `json:"status,omitempty"` // how the run stands now
	Line   string  `json:"line,omitempty"`   // something that happened, as a display says it
	End    *End    `json:"end,omitempty"`    // the last event
}

// End is how a process ended.
type End struct {
	Code int    `json:"code"`          // exit code
	Out  string `json:"out,omitempty"` // what it printed at its end
	Err  string `json:"err,omitempty"` // and to stderr
}

// ListenIn answers on a socket in the folder of a run, which this process must have
// claimed: what Listen answers, /watch, and /stop, which calls stop, with now for a run
// that is not to wait for what is under way.
func (s *Server) ListenIn(dir string, stop func(now bool)) error {
	x, err := listenIn(dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.sockets = append(s.sockets, x)
	s.mu.Unlock()
	m := s.open()
	m.HandleFunc("GET /watch", s.watch)
	m.HandleFunc("POST /stop", func(_ http.ResponseWriter, r *http.Request) { stop(r.URL.Query().Has("now")) })
	s.serve(x, m)
	return nil
}

// Say tells viewers of something that happened.
func (s *Server) Say(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for viewer := range s.viewers {
		select {
		case viewer <- Event{Line: line}:
		default: // faster than it can be sent
		}
	}
}

// End tells viewers that the process ends. Close waits until they know.
func (s *Server) End(e End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Over {
		s.end = &e
		s.finish()
	}
}

// finish ends the viewers. The lock is held.
func (s *Server) finish() {
	s.state = Over
	close(s.over)
}

// Between the frames that a viewer may ask for.
const (
	soonest = 100 * time.Millisecond
	latest  = time.Minute
)

// watch sends events, a line of JSON each, until the process ends: its status every
// so often, as `every` of the query says, and what happens.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	every, err := time.ParseDuration(r.URL.Query().Get("every"))
	if err != nil {
		http.Error(w, "every: want a duration, such as 1s", http.StatusBadRequest)
		return
	}
	lines := make(chan Event, 1000)
	s.mu.Lock()
	s.viewers[lines] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.viewers, lines)
	}()
	control, to := http.NewResponseController(w), json.NewEncoder(w)
	send := func(e Event) bool {
		return control.SetWriteDeadline(time.Now().Add(patience)) == nil && to.Encode(e) == nil && control.Flush() == nil
	}
	_ = control.SetReadDeadline(time.Time{}) // nothing more is read, and that it takes long is no fault of the client
	frames := time.NewTicker(min(max(every, soonest), latest))
	defer frames.Stop()
	w.Header().Set("Content-Type", "application/jsonl")
	for more := send(Event{Status: s.Status()}); more; {
		select {
		case <-r.Context().Done():
			return
		case <-frames.C:
			more = send(Event{Status: s.Status()})
		case e := <-lines:
			more = send(e)
		case <-s.over:
			for more = true; more && len(lines) > 0; {
				more = send(<-lines)
			}
			s.mu.Lock()
			end := s.end
			s.mu.Unlock()
			if more && end != nil && send(Event{Status: s.Status()}) {
				send(Event{End: end})
			}
			return
		}
	}
}
