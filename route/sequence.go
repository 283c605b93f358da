package route

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"matrix"
	"matrix/lang"
)

// Step is one role of a sequence. Written as a string it is the role's name.
type Step struct {
	Role   string `yaml:"role" required:"true" doc:"Who acts."`
	Stop   string `yaml:"stop" doc:"Expression: where it holds after the role has acted, the task ends here."`
	Finish string `yaml:"finish" doc:"Expression: the task that ends here is done, with this value; at the end of the flow without it the value is null. What stop ended says so in outcome.stopped, by the name of the role."`
	Drop   string `yaml:"drop" doc:"Template: the task that stop ends is dropped, for this reason. It is, too, where stop has neither finish, drop nor fail."`
	Fail   string `yaml:"fail" doc:"Template: the task that stop ends has failed, with this cause."`

	bare bool // written as a role's name alone
}

// UnmarshalText makes a step of a role's name.
func (s *Step) UnmarshalText(text []byte) error {
	*s = Step{Role: string(text), bare: true}
	return nil
}

// Sequence sends a task to one role after the other. Each role takes one turn
// each time it is listed; a role may be listed more than once. A turn with an
// error fails the task.
type Sequence struct {
	steps   []step
	sources map[string]Source
	flow    Flow
}

var _ matrix.Router = (*Sequence)(nil)

type step struct {
	role string
	path string
	stop *lang.Expr
	end  ending // where stop holds, or where the sequence is over
}

// NewSequence compiles a sequence. Its error joins all that is wrong: each is a
// *lang.FieldError with a field like "2.stop", or a *RoleError.
func NewSequence(steps []Step, env Env) (*Sequence, error) {
	c := newChecker(env)
	s := &Sequence{sources: c.sources}
	if len(steps) == 0 {
		c.at("", errors.New("a flow needs at least one role"))
	}
	listed := map[string]bool{}
	from := ""
	for i, st := range steps {
		field := strconv.Itoa(i)
		if st.bare {
			c.role(field, st.Role)
		} else {
			c.role(at(field, "role"), st.Role)
		}
		listed[st.Role] = true
		s.steps = append(s.steps, c.step(field, st, i == len(steps)-1))
		s.flow.add(env, Edge{From: from, To: st.Role})
		if st.Stop != "" {
			s.flow.add(env, Edge{From: st.Role, When: st.Stop, End: st.ends()})
		}
		from = st.Role
	}
	if len(steps) > 0 {
		last := steps[len(steps)-1]
		end := &End{Status: matrix.Done}
		if last.Stop == "" && last.Finish != "" {
			end.Text = last.Finish
		}
		s.flow.add(env, Edge{From: from, End: end})
	}
	if !c.lost {
		c.unreached(listed)
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// ends says how a task ends where stop holds.
func (s Step) ends() *End {
	switch {
	case s.Fail != "":
		return &End{Status: matrix.Failed, Text: s.Fail}
	case s.Finish != "":
		return &End{Status: matrix.Done, Text: s.Finish}
	}
	return &End{Status: matrix.Dropped, Text: s.Drop}
}

func (c *checker) step(field string, from Step, last bool) step {
	c.when = Source{Last: from.Role}
	s := step{role: from.Role, path: field, end: ending{path: "flow." + field}}
	if from.Stop != "" {
		s.stop = c.expr(at(field, "stop"), from.Stop)
		s.end.stopped = from.Role
	}
	if from.Finish != "" {
		s.end.finish = c.expr(at(field, "finish"), from.Finish)
		if from.Stop == "" && !last {
			c.at(at(field, "finish"), errors.New("only the last role may finish without stop: say when to stop"))
		}
	}
	if from.Drop != "" {
		s.end.drop = c.template(at(field, "drop"), from.Drop)
		if from.Stop == "" {
			c.at(at(field, "drop"), errors.New("drop needs stop: say when the task is dropped"))
		}
	}
	if from.Fail != "" {
		s.end.fail = c.template(at(field, "fail"), from.Fail)
		if from.Stop == "" {
			c.at(at(field, "fail"), errors.New("fail needs stop: say when the task fails"))
		}
	}
	for _, two := range [][3]string{{"drop", from.Drop, from.Finish}, {"fail", from.Fail, from.Finish}, {"fail", from.Fail, from.Drop}} {
		if two[1] != "" && two[2] != "" {
			c.at(at(field, two[0]), errors.New("a task ends with finish, drop or fail, not with two of them"))
			break
		}
	}
	return s
}

// Start sends the task to the first role.
func (s *Sequence) Start(*matrix.Task) matrix.Decision { return matrix.To(s.steps[0].role) }

// place is the step of the newest turn: the first role of t has had the first one, and
// each turn is of the step behind. Of a task that goes on from an earlier run the
// turns that it began with are of no step, and the first that acted has its own.
func (s *Sequence) place(t *matrix.Task) int {
	began := slices.IndexFunc(t.Turns, func(x matrix.Turn) bool { return x.Hop > 0 })
	if began <= 0 {
		return len(t.Turns) - 1
	}
	first := slices.IndexFunc(s.steps, func(x step) bool { return x.role == t.Turns[began].Role })
	return max(first, 0) + len(t.Turns) - 1 - began
}

// Next sends the task to the role after the one that acted, or ends it.
func (s *Sequence) Next(t *matrix.Task) matrix.Decision {
	last := t.Last()
	if last == nil {
		return s.Start(t)
	}
	i := s.place(t)
	if i >= len(s.steps) || s.steps[i].role != last.Role {
		return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("turn %d is of role %q: the flow does not have it there", len(t.Turns), last.Role))
	}
	if last.Error != "" {
		return failed(last)
	}
	st := &s.steps[i]
	final := i == len(s.steps)-1
	if st.stop != nil {
		stop, err := st.stop.Bool(t)
		switch {
		case err != nil:
			return matrix.FailBy(matrix.FaultRouter, fmt.Sprintf("flow.%s.stop: %v", st.path, err))
		case stop:
			return st.end.decide(t)
		case final:
			return matrix.Finish(matrix.Value{})
		}
	} else if final {
		return st.end.decide(t)
	}
	return matrix.To(s.steps[i+1].role)
}

// Sources are the expressions and templates of the flow, by their paths.
func (s *Sequence) Sources() map[string]Source { return s.sources }

// Flow describes the sequence for a drawing.
func (s *Sequence) Flow() Flow { return s.flow }

// at is the path of a key below a path.
func at(path, key string) string { return path + "." + key }
