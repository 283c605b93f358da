// Package admission has all processes of a run keep to what is one for the whole
// run: the calls that an endpoint can hold, the requests and tokens a minute of a
// model, and money. A Leader decides, in the process that has the run's account; a
// Member tells it of the calls that its process makes and wants to make, about once a second, and gets
// slices and loans. A message may be lost, doubled or late: what is given
// ends by itself, or is counted in sums that only grow. What a call is and what a task,
// it does not know.
package admission

import (
	"crypto/rand"
	"encoding/json"
	"time"

	"matrix/cluster"
	"matrix/llm"
)

// head is the address of the leader; a member's is addressOf its id.
const head = "a.head"

func addressOf(id string) string { return "a." + id }

const (
	every     = time.Second            // between two reports
	soon      = 100 * time.Millisecond // and at least, where there is news of calls
	atOnce    = 5 * time.Millisecond   // and of money
	idle      = 10 * time.Second       // after which what a model does not spend is returned
	patience  = 3 * every              // a leader that has answered nothing for so long may be gone
	silent    = 10 * time.Second       // a member that has told nothing for so long is gone
	lookAfter = 250 * time.Millisecond // how often a leader looks who is silent, and who waits for money that others have
	byeAgain  = 200 * time.Millisecond // a last report is sent again after so long,
	byes      = 10                     // so many times

	recallAgain = 50 * time.Millisecond // between recalls at the end,
	recalls     = 20                    // of which there are so many
)

// report is what a member tells.
type report struct {
	ID      string                        `json:"id"`
	Process string                        `json:"process"` // one of its own for each process, and for each time that a leader gave it up
	N       uint64                        `json:"n"`       // of its reports
	Head    string                        `json:"head"`    // the leader that it knows
	Models  map[string]map[string]llm.Use `json:"models,omitempty"`
	Money   map[string]llm.Debt           `json:"money,omitempty"`
	Bye     bool                          `json:"bye,omitempty"`
}

// answer is what a leader gives.
type answer struct {
	Head    string                          `json:"head"`
	Process string                          `json:"process"`
	N       uint64                          `json:"n,omitempty"` // of the report that asked for the slices
	Models  map[string]map[string]llm.Slice `json:"models,omitempty"`
	Money   map[string]llm.Amount           `json:"money,omitempty"`
	Out     []string                        `json:"out,omitempty"`    // budgets into which no call fits any more
	Recall  bool                            `json:"recall,omitempty"` // return what is not needed
	Gone    bool                            `json:"gone,omitempty"`   // the leader knows that process no more
}

// name is one that nobody else has.
func name() string { return rand.Text() }

// send sends a message, and in parts where it is too large for a frame: a part is a
// message, too. What cannot be sent is lost, and sent anew a second later.
func send[T any](net cluster.Net, address string, m T, halve func(T) (a, b T, ok bool)) {
	frame, err := json.Marshal(m)
	if err != nil {
		return
	}
	if len(frame) > net.MaxFrame() {
		if a, b, ok := halve(m); ok {
			send(net, address, a, halve)
			send(net, address, b, halve)
		}
		return
	}
	_ = net.Send(address, frame)
}

// halve divides what is told of models, by models or by endpoints.
func halve[V any](all map[string]map[string]V) (a, b map[string]map[string]V, ok bool) {
	a, b = map[string]map[string]V{}, map[string]map[string]V{}
	n := 0
	for model, at := range all {
		for key, v := range at {
			into := a
			if n++; n%2 == 0 {
				into = b
			}
			if into[model] == nil {
				into[model] = map[string]V{}
			}
			into[model][key] = v
		}
	}
	return a, b, n > 1
}

func halveReport(r report) (a, b report, ok bool) {
	a, b = r, r
	a.Models, b.Models, ok = halve(r.Models)
	b.Money = nil
	return a, b, ok
}

func halveAnswer(r answer) (a, b answer, ok bool) {
	a, b = r, r
	a.Models, b.Models, ok = halve(r.Models)
	b.Money = nil
	return a, b, ok
}
