package session

import (
	"matrix"
	"matrix/run"
)

// share is what this process takes of a role, which workers act for, too: as many
// slots as of says, anew every little while.
type share struct {
	matrix.SlotSemaphore
	most int // steps of the role at once, by its config
	load int // tasks of the role, lately
}

// of is how many slots this process has of a role that is doing p, where workers have
// room for others steps of it: as many as there may be without any, and else its
// part of the tasks that there are. So a role that has little to do leaves some of it to
// them, and what they have no room for is done here.
func (s *share) of(p run.RoleProgress, others int) int {
	if others == 0 {
		return s.most
	}
	s.load = max(p.Waiting+p.Acting, s.load*3/4)
	return min(s.most, max(1, (s.load*s.most+s.most+others-1)/(s.most+others)))
}
