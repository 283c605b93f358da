package registry

import (
	"errors"

	"matrix"
	"matrix/agent"
)

func request(b Build, c agent.Request) (matrix.Agent, error) {
	m, err := b.speaker(c.Model)
	if c.ImageDir == "" {
		c.ImageDir = b.folder
	}
	a, bad := agent.NewRequest(b.Name, c, m, b.Params)
	return a, errors.Join(err, bad)
}
