package registry

import (
	"matrix/internal/sim"
	"matrix/llm"
)

// simConfig is the section of a model of kind sim.
type simConfig struct {
	Sim         sim.Config `yaml:",inline"`
	llm.Service `yaml:",inline"`
}

// simulated is a model whose service is simulated in this process. Its calls go
// through a Client, as those of any other.
type simulated struct {
	*llm.Client
	engines []*sim.Engine
}

func simModel(b Build, c simConfig) (llm.Model, error) {
	engines, err := sim.New(c.Sim)
	if err != nil {
		return nil, err
	}
	c.Named = c.Sim.Model
	m, err := llm.New(b.Name, c.Service, sim.Addresses(engines), sim.Open(engines))
	if err != nil {
		engines[0].Close()
		return nil, err
	}
	return &simulated{m, engines}, nil
}

// Close implements llm.Model.
func (m *simulated) Close() error {
	err := m.Client.Close()
	m.engines[0].Close()
	return err
}
