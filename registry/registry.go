// Package registry turns the names in a config into agents, models and
// routers, and a whole config into a Plan that an engine can run. It finds
// everything that is wrong with a config before anything runs, and says where.
//
// A Registry is an instance: New has the built-in kinds, and a program adds its
// own with Agent, Model, PoolKind and Router. The package does not know how a run is
// driven.
package registry

import (
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/lang"
	"matrix/llm"
	"matrix/route"
	"matrix/tool"
)

// Registry holds the kinds of agents, models and routers that configs may name.
type Registry struct {
	// Log takes what command agents write to stderr, a line at a time, the
	// role before it. It is called concurrently. nil drops it.
	Log func(line string)

	// Stub makes what agents ask in the place of a model that has a service,
	// for who wants to see requests without sending them. nil asks the model.
	Stub func(name string, m llm.Model) llm.Model

	// Front makes what agents ask in the place of a model, of any, such as one that
	// answers some requests itself. It is part of the plan as the model would be. nil
	// asks the model.
	Front func(name string, m llm.Model) llm.Model

	// ReadImage reads the files that rows name as images. nil reads them from the disk.
	ReadImage agent.ReadImage

	// Lacking are values of a config, by their keys, of which it is known that what
	// they name is not here. It is for ToWork.
	Lacking map[string]error

	agents  map[string]kind[makeAgent]
	pools   map[string]kind[makePool]
	models  map[string]kind[makeModel]
	routers map[string]kind[makeRouter]
}

// kind is one entry: how to make a thing of its section.
type kind[F any] struct {
	options
	config any // a value of the type that the section is decoded into
	make   F
}

type (
	makeAgent  func(b Build, s *config.Section) (matrix.Agent, error)
	makeModel  func(b Build, s *config.Section) (m llm.Model, record string, err error)
	makePool   func(b Build, s *config.Section) (agent.Pool, error)
	makeRouter func(b Build, s *config.Section) (matrix.Router, error)
)

// Option says more of a kind.
type Option func(*options)

type options struct {
	doc    string
	inline bool
	after  bool
}

// Doc is a sentence on the kind for the reference.
func Doc(text string) Option { return func(o *options) { o.doc = text } }

// Inline makes agents of the kind act in the hop of the agent before, where
// the config does not say otherwise: right for agents that compute and do
// nothing that is expensive or slow.
func Inline() Option { return func(o *options) { o.inline = true } }

// After makes pools of the kind after all others, which they may use: Build.Pools.
func After() Option { return func(o *options) { o.after = true } }

func newKind[F any](config any, make F, opts []Option) kind[F] {
	k := kind[F]{config: config, make: make}
	for _, o := range opts {
		o(&k.options)
	}
	return k
}

// New returns a registry that has the built-in kinds: agents chat, complete,
// embed, exec, calls, request, compute and command; pools of sandboxes; models openai, scripted, replay and sim; flows graph and, for a list,
// sequence.
func New() *Registry {
	r := &Registry{agents: map[string]kind[makeAgent]{}, pools: map[string]kind[makePool]{}, models: map[string]kind[makeModel]{}, routers: map[string]kind[makeRouter]{}}
	Model(r, "openai", openAI, Doc("Any server that speaks the OpenAI chat API."))
	Model(r, "scripted", scripted, Doc("Replies from a template or from lists, without a service. The template sees item, id, trial and params, and of the call: role, who speaks; prompt, the last message; system, the system message; messages, all of them with role and content; nth, replies that the role got before; reask, how often it was asked again."))
	Model(r, "replay", replayed, Doc("Replies that were recorded in a file."))
	Model(r, "sim", simModel, Doc("A simulated service in this process, without a network: the replies are made up, the times are those of a real engine. `matrix sim` serves the same over HTTP."))
	vendorKinds(r)
	Agent(r, "chat", chat, Doc("Asks a model."))
	Agent(r, "complete", complete, Doc("Has a model go on with a text, as base models want it: no roles, and no template of the service's."))
	Agent(r, "embed", embed, Doc("Has a model make vectors of texts."))
	Agent(r, "exec", execute, Doc("Runs a command in a sandbox: docs/sandboxes.md."))
	Agent(r, "calls", answer, Doc("Answers the tool calls of the newest turn, from the pools that the tools are of."))
	Agent(r, "request", request, Doc("Sends the conversation, or the whole request, that a row brings along, in the form of the OpenAI API."))
	r.agents["command"] = kind[makeAgent]{
		options: options{doc: "Asks a child process in any language: it reads one JSON line and answers with one, again and again."},
		config:  agent.Command{}, make: r.command,
	}
	r.agents["compute"] = kind[makeAgent]{
		options: options{inline: true, doc: "Evaluates an expression for each field of the turn's data, from top to bottom; later ones may name earlier fields."},
		config:  map[string]string{}, make: compute,
	}
	PoolKind(r, "process", r.processPool, Doc("Programs that each keep the states of many tasks at once, such as an environment that agents act on: docs/extending.md."))
	Agent(r, "judge", judge, Doc("Asks a model what a pool wants to know before it scores."))
	Agent(r, "score", score, Doc("Has a pool judge how the task went."))
	PoolKind(r, "python", r.pythonPool, Doc("Functions of a Python file, which are tools by their type hints and docstrings."))
	PoolKind(r, "mcp", r.mcpPool, After(), Doc("Tools of a server that speaks the Model Context Protocol: a program, or a service at a url."))
	Agent(r, "python", r.pythonRole, Doc("Calls a function of a Python file; what it returns is the turn's data."))
	sandboxKinds(r)
	Router(r, "graph", graph, Doc("Who acts after whom, by rules."))
	return r
}

// Build is what a constructor may draw on.
type Build struct {
	Name    string                // of the role, the model or the pool; empty for the router
	Seed    int64                 // of the run
	Params  lang.Params           // what expressions and templates see as params
	Roles   map[string]route.Role // all roles of the run, by name; Inline is not set while agents are built
	Models  map[string]llm.Model  // all models of the run, by name; empty while models are built
	Pools   map[string]agent.Pool // all pools of the run, by name; of a pool that is built, those before it
	Limited bool                  // the config cuts long tasks short by itself: a flow may loop without an end of its own
	Served  llm.Endpoints         // of a model: where the servers are that its key serve starts; empty without one

	user   string // of pools: the role, or pools.NAME
	config string // path of its main file
	folder string // of the dataset; empty where its files stand in several
	notes  *notes

	pool      *Pool // that compute agents draw from; nil for none
	elsewhere bool  // roles act in other processes alone

	image agent.ReadImage                    // nil: from the disk
	reads func(field string, names []string) // notes fields of the item that the source at field surely reads
	sees  func(field string, s route.Source) // notes a source of a flow
}

// notes is what the built-in kinds share: what they leave for checks across
// sections, and what bounds them together.
type notes struct {
	imageMemory *agent.ImageMemory
	needs       *needs
	unnamed     map[string]*tool.Python // pools that the config gives no name: FILE:FUNCTION is what stands for one
	secrets     llm.Secrets             // known once all of the config is decoded
	asks        map[string]string       // role to its model
	uses        map[string][]string     // by who uses them: names of pools
	tools       map[string]any          // of chats, by role: as their configs list them
	lacking     map[string]error        // models, and pools.NAME, that cannot be made here, with what is missing
	replays     map[string]string       // model to the file that it replays
	writes      map[string]float64      // model to what writing into its service's cache costs, in times of input, where its price does not say
	voices      map[string][]string     // model to the roles that it has replies for, where it has lists by role
}

// hide leaves out of a text what must not be shown. It is for what pools say, after all is built.
func (n *notes) hide(text string) string { return n.secrets.Hide(text) }

// Agent adds a kind of agent: `roles: {NAME: {KIND: {...}}}`. The section is
// decoded strictly into a C, by the tags that spec.Run describes. An error of
// f that is a *lang.FieldError is reported at that key of the section; several
// may be joined. An agent that is an agent.Mentioner has its mentions checked, and
// one that has a Close method is closed with the plan.
// Adding a kind that is known replaces it.
func Agent[C any](r *Registry, name string, f func(b Build, c C) (matrix.Agent, error), opts ...Option) {
	var zero C
	r.agents[name] = newKind[makeAgent](zero, func(b Build, s *config.Section) (matrix.Agent, error) {
		var c C
		if err := s.Decode(&c); err != nil {
			return nil, err
		}
		return f(b, c)
	}, opts)
}

// modelSection is the section of a model: what all kinds have, and C.
type modelSection[C any] struct {
	Kind   string        `yaml:"kind" doc:"Kind of model." default:"openai"`
	Record string        `yaml:"record" path:"here" free:"true" doc:"JSONL file that every reply is added to, in the form that a model of kind replay reads."`
	Serve  *launch.Serve `yaml:"serve" doc:"How to start servers of the model on this machine: matrix models up CONFIG, or matrix run --up. The model is then where they are, unless base_url or endpoints say otherwise."`
	Own    C             `yaml:",inline"`
}

// Model adds a kind of model: `models: {NAME: {kind: KIND, ...}}`, as Agent
// does for agents.
func Model[C any](r *Registry, name string, f func(b Build, c C) (llm.Model, error), opts ...Option) {
	r.models[name] = newKind[makeModel](modelSection[C]{}, func(b Build, s *config.Section) (llm.Model, string, error) {
		var c modelSection[C]
		if err := s.Decode(&c); err != nil {
			return nil, "", err
		}
		var err error
		if b.Served, err = served(b, strings.TrimPrefix(s.Path(), "models."), c.Serve); err != nil {
			return nil, "", err
		}
		if c.Serve != nil {
			b.notes.needs.served[b.Name] = s
		}
		m, err := f(b, c.Own)
		return m, c.Record, err
	}, opts)
}

// poolSection is the section of a pool: its kind, and C.
type poolSection[C any] struct {
	Kind string `yaml:"kind" required:"true" doc:"Kind of pool."`
	Own  C      `yaml:",inline"`
}

// PoolKind adds a kind of pool: `pools: {NAME: {kind: KIND, ...}}`, as Agent does for
// agents. Its f starts nothing and writes nothing: see agent.Opener. A pool that is an
// agent.Mentioner has its mentions checked as what is asked of a row.
func PoolKind[C any](r *Registry, name string, f func(b Build, c C) (agent.Pool, error), opts ...Option) {
	r.pools[name] = newKind[makePool](poolSection[C]{}, func(b Build, s *config.Section) (agent.Pool, error) {
		var c poolSection[C]
		if err := s.Decode(&c); err != nil {
			return nil, err
		}
		return f(b, c.Own)
	}, opts)
}

// routerSection is the section of a router: its kind, and C.
type routerSection[C any] struct {
	Kind string `yaml:"kind" doc:"Kind of flow." default:"graph"`
	Own  C      `yaml:",inline"`
}

// Router adds a kind of router: `flow: {kind: KIND, ...}`, as Agent does for
// agents.
func Router[C any](r *Registry, name string, f func(b Build, c C) (matrix.Router, error), opts ...Option) {
	r.routers[name] = newKind[makeRouter](routerSection[C]{}, func(b Build, s *config.Section) (matrix.Router, error) {
		var c routerSection[C]
		if err := s.Decode(&c); err != nil {
			return nil, err
		}
		return f(b, c.Own)
	}, opts)
}
