package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"matrix"
	"matrix/agent"
	"matrix/internal/config"
	"matrix/internal/export"
	"matrix/lang"
	"matrix/llm"
	"matrix/llm/replay"
	"matrix/route"
	"matrix/spec"
	"matrix/tool"
)

// Plan is a config as things that work: all that an engine needs to run it.
type Plan struct {
	Source  matrix.Source
	Router  matrix.Router
	Flow    route.Flow // of Router, to be drawn; empty where the router does not describe itself
	Roles   map[string]matrix.Role
	Models  map[string]llm.Model
	Pools   map[string]agent.Pool               // not opened: see agent.Opener
	Leases  map[string]map[string]tool.Stateful // by role and pool: what its sources ask for with lease(pool)
	Limits  matrix.Limits
	Metrics map[string]matrix.Metric
	Unique  *Unique                                 // what done tasks are compared by; nil where they are not
	Pool    *Pool                                   // what compute roles draw from; nil for nothing
	Per     func(item matrix.Value) (string, error) // of until.per; nil of none
	Bills   map[string]*Bill                        // by model
	Asks    map[string]string                       // by role: the model that its calls go to, for those that have one
	Where   map[string]*lang.LabelExpr              // of the roles that do not act on every machine, by role: on which they do

	Export *export.Options // the training set that the run makes, less its folder; nil for none

	Warnings config.Errors // what is likely to be a mistake, and may be right

	rows  fields // of the first tasks
	tree  *config.Tree
	name  string // of the run
	needs *needs
	uses  map[string][]string // pools, by role, or pools.NAME
	lacks map[string][]string
}

// Clients are the models that have a service, by name: those whose calls wait for a slot.
func (p *Plan) Clients() map[string]*llm.Client {
	all := map[string]*llm.Client{}
	for name, bill := range p.Bills {
		if c, ok := bill.Charger.(*llm.Client); ok {
			all[name] = c
		}
	}
	return all
}

// Check returns an error where src, of a finished task, asks for a role that
// there is not, or for a field that no row has.
func (p *Plan) Check(src lang.Source) error {
	var errs []error
	for _, name := range src.Roles() {
		if _, ok := p.Roles[name]; !ok && name != route.User {
			errs = append(errs, unknown("role", name, slices.Sorted(maps.Keys(p.Roles))))
		}
	}
	for _, l := range src.TurnRefs() {
		if len(l.Path) != 1 || l.Path[0].Name != "role" {
			continue
		}
		for _, t := range l.Asked {
			if _, ok := p.Roles[t.Text]; !ok && t.Text != route.User && t.Text != "" {
				errs = append(errs, unknown("role", t.Text, slices.Sorted(maps.Keys(p.Roles))))
			}
		}
	}
	for _, name := range src.Fields() {
		errs = append(errs, p.rows.missing(name))
	}
	return errors.Join(errs...)
}

// Close closes the agents that can be closed, then the pools and the models.
func (p *Plan) Close() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(p.Roles)) {
		if c, ok := p.Roles[name].Agent.(io.Closer); ok {
			if err := c.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close role %s: %w", name, err))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Pools)) {
		if err := p.Pools[name].Close(); err != nil {
			errs = append(errs, fmt.Errorf("close pool %s: %w", name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Models)) {
		if err := p.Models[name].Close(); err != nil {
			errs = append(errs, fmt.Errorf("close model %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Serves says which roles act on a machine with these labels: those without a
// condition, and those whose condition holds. The error says which condition cannot
// be evaluated.
func (p *Plan) Serves(labels map[string]string) (map[string]bool, error) {
	serves := map[string]bool{}
	for _, role := range slices.Sorted(maps.Keys(p.Roles)) {
		where := p.Where[role]
		if where == nil {
			serves[role] = true
			continue
		}
		holds, err := where.Match(labels)
		if err != nil {
			return nil, fmt.Errorf("%s.where: %w", config.Join("roles", role), err)
		}
		serves[role] = holds
	}
	return serves, nil
}

// RoleOrder lists the roles as the flow comes upon them.
func (p *Plan) RoleOrder() []string {
	place := map[string]int{}
	for i, n := range p.Flow.Nodes {
		place[n.Role] = i - len(p.Flow.Nodes)
	}
	names := slices.Sorted(maps.Keys(p.Roles))
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(place[a], place[b]) })
	return names
}

// Use says what a plan is built for.
type Use uint8

const (
	ToRun   Use = iota // everything is made ready: files that models record to are opened
	ToCheck            // nothing is written; the plan is complete but for what records

	// ToWork is for a process that acts for a run whose folder and dataset are
	// elsewhere. The plan has no Source. A role that cannot be made here has no Agent:
	// Plan.Lacks says what is missing.
	ToWork

	// ToLead is ToRun for a process whose roles all act elsewhere: variables of the
	// environment that models and roles name need not be set here, and programs not be
	// there. Its agents are not to be asked.
	ToLead

	// ToSend is ToLead for a process that gives the run to a head elsewhere: Plan.Sent. The plan has no
	// Source, and its rows are looked at over there.
	ToSend
)

// away reports whether the rows of the run are elsewhere.
func (u Use) away() bool { return u == ToWork || u == ToSend }

// limited reports whether a config limits its tasks by more than the defaults.
func limited(root *config.Section) bool {
	for _, key := range []string{"limits.rounds", "limits.hops", "limits.tokens", "limits.seconds", "budget.per_task"} {
		if root.Get(key) != nil {
			return true
		}
	}
	return false
}

// limits are those of a single task: the config's, and what its budget lets a
// task cost.
func limits(run *spec.Run) matrix.Limits {
	l, cost := run.Limits, run.Budget.PerTask
	x := matrix.Limits{Rounds: l.Rounds, Hops: l.Hops, Tokens: l.Tokens, USD: cost.USD, Seconds: l.Seconds, Finish: l.Then == "finish"}
	if n := int(cost.Tokens); n > 0 && (x.Tokens == 0 || n < x.Tokens) {
		x.Tokens = n
	}
	return x
}

// Build makes a plan of a config: run is what tree decodes into. Its errors are
// config.Errors: all that was found, each where it stands. Nothing is left open
// after an error.
func (r *Registry) Build(tree *config.Tree, run *spec.Run, use Use) (*Plan, error) {
	b := r.builder(tree, run, use)
	if use != ToWork {
		b.problems.meant = b.suggest
	}
	if use == ToLead || use == ToSend {
		b.root.Get("models").AllowUnset()
		b.root.Get("pools").AllowUnset()
		b.root.Get("roles").AllowUnset()
	}
	b.numbers()
	b.pool()
	b.pools()
	b.models()
	b.roles()
	for name, p := range b.build.notes.unnamed {
		b.plan.Pools[name] = p
	}
	b.plan.uses = b.build.notes.uses
	b.flow()
	b.metrics()
	b.unique()
	b.fillPool()
	b.until()
	if use != ToWork {
		b.budget()
	}
	if !use.away() {
		b.dataset()
		b.export()
	}
	if use != ToWork && len(b.errs) == 0 {
		b.idlePools()
	}
	b.conceal(tree)
	if use != ToWork {
		b.checkRefs()
		if !b.opaque {
			b.warnings = append(b.warnings, tree.IdleParams()...)
		}
	}
	_ = b.warnings.Sorted()
	b.plan.Warnings = b.warnings
	if len(b.errs) > 0 {
		b.add(b.root, "", b.plan.Close())
		return nil, tree.Explain(b.errs.Sorted())
	}
	return b.plan, nil
}

// export makes the training set of the run, where the rest of the config is well.
func (b *builder) export() {
	if len(b.errs) > 0 {
		return
	}
	o, err := exportOf(b.run)
	b.add(b.root, "", err)
	b.plan.Export = o
}

// builder is one Build under way.
type builder struct {
	*Registry
	problems
	run      *spec.Run
	use      Use
	root     *config.Section
	plan     *Plan
	build    Build
	reads    reads
	seen     []source
	turnInfo map[string]agent.TurnInfo // by role; absent where nothing is known
	fields   []string                  // of the rows, once somebody has asked
	spoke    []string                  // roles of the run whose tasks go on; nil where they are not known
	opaque   bool                      // an agent takes params in a way that the config does not show
}

func (r *Registry) builder(tree *config.Tree, run *spec.Run, use Use) *builder {
	root := tree.Root()
	needs := &needs{served: map[string]*config.Section{}, pythons: map[string]string{}, functions: map[string]neededFunction{}}
	asks := map[string]string{}
	return &builder{
		Registry: r, run: run, use: use, root: root,
		problems: problems{root: root},
		turnInfo: map[string]agent.TurnInfo{}, spoke: spoke(run),
		plan: &Plan{Roles: map[string]matrix.Role{}, Models: map[string]llm.Model{}, Pools: map[string]agent.Pool{}, Leases: map[string]map[string]tool.Stateful{}, Limits: limits(run), Metrics: map[string]matrix.Metric{}, Bills: map[string]*Bill{}, Asks: asks, Where: map[string]*lang.LabelExpr{}, tree: tree, name: run.Name, needs: needs, lacks: map[string][]string{}},
		build: Build{
			Seed: run.Seed, Params: lang.Params(run.Params), Limited: limited(root),
			Roles: map[string]route.Role{}, Models: map[string]llm.Model{}, Pools: map[string]agent.Pool{},
			config: tree.File(),
			folder: folderOf(run.Dataset.Path),
			image:  r.ReadImage, elsewhere: use == ToLead || use == ToSend,
			notes: &notes{asks: asks, imageMemory: agent.NewImageMemory(), needs: needs, lacking: map[string]error{}, tools: map[string]any{}, uses: map[string][]string{}, unnamed: map[string]*tool.Python{},
				replays: map[string]string{}, voices: map[string][]string{}, writes: map[string]float64{}},
		},
	}
}

// maxTrials is how many tasks may be made of a row: all are named when the row
// is read, which takes seconds for so many.
const maxTrials = 1_000_000

// maxShards is how many shards a run may have.
const maxShards = 64

// numbers checks what the types of the config cannot.
func (b *builder) numbers() {
	r := b.run
	least := func(field string, got, want int64) {
		if got < want {
			b.at(b.root, field, 0, 0, fmt.Sprintf("got %d, want %d or more", got, want), "")
		}
	}
	least("live", int64(r.Live), 1)
	if r.Trials != spec.TrialsUntil {
		least("trials", int64(r.Trials), 1)
	}
	least("shards", int64(r.Shards), 1)
	if r.Shards > maxShards {
		b.at(b.root, "shards", 0, 0, fmt.Sprintf("got %d, want 64 at most: each has files and memory of its own", r.Shards), "")
	}
	if r.Trials > maxTrials {
		b.at(b.root, "trials", 0, 0, fmt.Sprintf("got %d, want 1,000,000 at most: each is named before the first of them is begun", r.Trials), "")
	}
	if r.Grace < 0 {
		b.at(b.root, "grace", 0, 0, fmt.Sprintf("got %v, want 0s or more", r.Grace), "")
	}
	least("dataset.skip", r.Dataset.Skip, 0)
	least("dataset.limit", r.Dataset.Limit, 0)
	least("dataset.sample", r.Dataset.Sample, 0)
	least("limits.rounds", int64(r.Limits.Rounds), 0)
	least("limits.hops", int64(r.Limits.Hops), 0)
	least("limits.tokens", int64(r.Limits.Tokens), 0)
	if r.Limits.Seconds < 0 {
		b.at(b.root, "limits.seconds", 0, 0, fmt.Sprintf("got %v, want 0 or more", r.Limits.Seconds), "")
	}
	least("output.rows_per_part", int64(r.Output.RowsPerPart), 1)
	for name, role := range r.Roles {
		least("roles."+name+".concurrency", int64(role.Concurrency), 0)
		least("roles."+name+".attempts", int64(role.Attempts), 1)
	}
}

// conceal tells those who speak of others what must not be shown, and programs whether
// the run goes on whatever fails.
func (b *builder) conceal(tree *config.Tree) {
	secrets := secretsOf(tree)
	b.build.notes.secrets = secrets
	for _, bill := range b.plan.Bills {
		bill.Conceal(secrets)
	}
	for _, role := range b.plan.Roles {
		if a, ok := role.Agent.(*agent.CommandAgent); ok {
			a.Conceal(secrets)
			if b.run.MaxFailed <= 0 {
				a.Persist()
			}
		}
	}
}

// secretsOf is what must not be shown of a config that is decoded.
func secretsOf(tree *config.Tree) (secrets llm.Secrets) {
	for _, s := range tree.Secrets() {
		secrets = append(secrets, llm.Secret(s))
	}
	return secrets
}

func (b *builder) models() {
	known := slices.Sorted(maps.Keys(b.Registry.models))
	records := map[string]string{}
	reading := llm.NewReplyMemory(llm.MaxReplyMemory)
	for _, name := range slices.Sorted(maps.Keys(b.run.Models)) {
		s := b.run.Models[name]
		b.build.Models[name] = absent{} // so that a role that names it is not wrong too
		kind := defaultModel
		if k := s.Get("kind"); k != nil && k.Kind() != config.Null {
			if err := k.Decode(&kind); err != nil {
				b.add(s, "", err)
				continue
			}
		}
		k, ok := b.Registry.models[kind]
		if !ok {
			b.unknown(s, "kind", "kind of model", kind, known)
			continue
		}
		if err := b.lacking(s); err != nil {
			b.lackModel(name, s, err)
			continue
		}
		build := b.build
		build.Name, build.Models, build.reads = name, nil, b.reads.in(s)
		m, record, err := k.make(build, s)
		if err != nil && b.use == ToWork {
			b.lackModel(name, s, asWritten(s, err))
			continue
		}
		if err != nil {
			b.add(s, "", asWritten(s, err))
			continue
		}
		if record != "" {
			records[name] = record
		}
		if c, ok := m.(*llm.Client); ok {
			c.Share(reading)
		}
		m = b.bill(name, s, m)
		_, free := m.(*llm.Metered)
		if b.Front != nil {
			m = b.Front(name, m)
		}
		b.build.Models[name], b.plan.Models[name] = m, m
		if b.Stub != nil && !free {
			b.build.Models[name] = b.Stub(name, m)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(records)) {
		b.record(name, records[name])
	}
}

// asWritten is err, of the list of a model's endpoints, as one of base_url where
// that is what the section has.
func asWritten(s *config.Section, err error) error {
	var list, entry *llm.FieldError
	if s.Get("base_url") != nil && errors.As(err, &list) && list.Field == "endpoints" && errors.As(list.Err, &entry) {
		return &llm.FieldError{Field: "base_url", Err: entry.Err}
	}
	return err
}

// record makes a model record to a file, which no model may read, and which workers
// cannot write.
func (b *builder) record(name, file string) {
	s := b.run.Models[name]
	if b.run.Cluster.Serve != "" {
		b.at(s, "record", 0, 0, "a run with workers cannot record: the replies that they get would not be in the file; leave record out, or run it without them", "")
		return
	}
	for _, other := range slices.Sorted(maps.Keys(b.build.notes.replays)) {
		if !sameFile(b.build.notes.replays[other], file) {
			continue
		}
		msg := "is the file that the model replays: name another"
		if other != name {
			msg = "is the file that model " + quote(other) + " replays: name another"
		}
		b.at(s, "record", 0, 0, msg, "")
		return
	}
	if b.use != ToRun {
		return
	}
	m, err := replay.Record(b.plan.Models[name], file)
	if err != nil {
		b.add(s, "", err)
		return
	}
	b.build.Models[name], b.plan.Models[name] = m, m
}

func sameFile(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// absent stands for a model that could not be made.
type absent struct{}

func (absent) Do(context.Context, *llm.Request) (*llm.Reply, error) {
	return nil, errors.New("the model could not be made")
}
func (absent) Stats() llm.Stats { return llm.Stats{} }
func (absent) Close() error     { return nil }

func (b *builder) roles() {
	type one struct {
		name string
		kind kind[makeAgent]
		s    *config.Section

		draws bool // from the pool
	}
	var found []one
	for _, name := range slices.Sorted(maps.Keys(b.run.Roles)) {
		if !isName(name) {
			why := "use letters, digits, _ and -"
			if isName("_" + name) {
				why = "it must begin with a letter"
			}
			b.at(b.root, "roles."+name, 0, 0, fmt.Sprintf("%q is not a name for a role: %s", name, why), "")
		}
		kind, s, ok := b.agent(name)
		if !ok {
			b.build.Roles[name] = route.Role{} // it has a name all the same
			continue
		}
		k := b.agents[kind]
		inline := k.inline
		if b.run.Roles[name].Inline != nil {
			inline = *b.run.Roles[name].Inline
		}
		draws := kind == "compute" && b.draws(s)
		if draws {
			inline = b.drawing(name)
		}
		b.build.Roles[name] = route.Role{Kind: kind, Inline: inline}
		b.where(name, inline)
		found = append(found, one{name, k, s, draws})
		if tools := s.Get("tools"); kind == "chat" && tools != nil && tools.Kind() == config.List {
			var list any
			if tools.Decode(&list) == nil {
				b.build.notes.tools[name] = b.functions(name, s, list)
			}
		}
	}
	for _, f := range found {
		build := b.build
		build.Name, build.user, build.reads = f.name, f.name, b.reads.in(f.s)
		is := b.build.Roles[f.name]
		role := matrix.Role{
			Kind: is.Kind, Inline: is.Inline,
			Concurrency: b.run.Roles[f.name].Concurrency, Attempts: b.run.Roles[f.name].Attempts,
		}
		err := b.lacking(f.s)
		if f.draws && b.use == ToWork {
			err = errPool
		}
		var a matrix.Agent
		if err == nil {
			a, err = f.kind.make(build, f.s)
		}
		if err != nil && b.use == ToWork {
			b.plan.lacks[f.name] = b.sentences(f.s, err)
			b.plan.Roles[f.name] = role
			continue
		}
		if err != nil {
			b.add(f.s, "", err)
			continue
		}
		m, ok := a.(agent.Mentioner)
		if b.opaque = b.opaque || !ok; ok {
			for _, mention := range m.Mentions() {
				b.speakers(f.s, mention.Key, mention.Roles)
				if mention.Source != nil {
					b.leases(f.s, mention, &role, f.name)
					b.reads.add(f.s, mention.Key, mention.Source.Fields())
					b.seen = append(b.seen, source{section: f.s, field: mention.Key, source: mention.Source, acts: f.name})
				}
			}
		}
		if m, ok := a.(agent.TurnDescriber); ok {
			turns := m.TurnInfo()
			b.turnInfo[f.name] = turns
			if turns.Sole != "" {
				b.warn(f.s, "parse.choice", 0, 0, fmt.Sprintf("is one option, %q; several are a list: %s", turns.Sole, optionsIn(turns.Sole)), "")
			}
		}
		role.Agent = a
		b.plan.Roles[f.name] = role
	}
}

// leases notes the pools whose states a source asks of: its role may have to wait for
// one, and is not inline.
func (b *builder) leases(s *config.Section, m agent.Mention, role *matrix.Role, name string) {
	build := b.build
	build.user = name
	for _, pool := range m.Source.Leases() {
		p, err := build.PoolNamed(m.Key, pool)
		if err != nil {
			b.add(s, "", err)
			continue
		}
		stateful, ok := p.(tool.Stateful)
		if _, absent := p.(absentPool); !ok && !absent {
			b.add(s, "", &lang.FieldError{Field: m.Key, Err: fmt.Errorf("lease(%q): the states of that pool say nothing of themselves, as those of kind process do", pool)})
		}
		if !ok {
			continue
		}
		if b.plan.Leases[name] == nil {
			b.plan.Leases[name] = map[string]tool.Stateful{}
		}
		b.plan.Leases[name][pool], role.Inline = stateful, false
	}
}

// where compiles the condition on the machines on which a role acts.
func (b *builder) where(role string, inline bool) {
	src, field := b.run.Roles[role].Where, config.Join("roles", role)+".where"
	switch {
	case b.root.Get(field) == nil:
	case inline:
		b.at(b.root, field, 0, 0, "an inline role acts on the machine of the role before it: leave where out, or set inline: false", "")
	default:
		e, err := lang.CompileLabelExpr(src, b.build.Params)
		if err != nil {
			b.add(b.root, field, err)
			return
		}
		b.plan.Where[role] = e
	}
}

// optionsIn is the list that somebody may mean who writes options as one text.
func optionsIn(text string) string {
	parts := regexp.MustCompile(`\s*(?:[,;|/\n]|\bor\b)\s*`).Split(strings.TrimSpace(text), -1)
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	if len(parts) < 2 {
		parts = []string{"yes", "no"}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// agent finds the one agent of a role.
func (b *builder) agent(role string) (kind string, s *config.Section, ok bool) {
	known := slices.Sorted(maps.Keys(b.agents))
	sections := b.run.Roles[role].Agent
	var kinds []string
	strange := false
	for _, key := range slices.Sorted(maps.Keys(sections)) {
		if _, ok := b.agents[key]; ok {
			kinds = append(kinds, key)
			continue
		}
		strange = true
		b.add(sections[key], "", sections[key].Unknown(append([]string{"concurrency", "inline", "attempts", "where"}, known...)...))
	}
	switch {
	case len(kinds) == 1:
		return kinds[0], sections[kinds[0]], true
	case len(kinds) > 1:
		b.at(b.root, "roles."+role, 0, 0, "a role has one agent, and this one has "+list(kinds, "and"), "")
	case !strange:
		b.at(b.root, "roles."+role, 0, 0, "a role needs an agent: one of "+list(known, "or"), "")
	}
	return "", nil, false
}

func (b *builder) flow() {
	s := b.run.Flow
	build := b.build
	build.sees = func(field string, x route.Source) {
		b.reads.add(s, field, x.Fields())
		b.seen = append(b.seen, source{section: s, field: field, source: x.Source, last: x.Last, failed: x.Failed, first: x.First})
	}
	kind := defaultFlow
	k := b.routers[kind]
	if shape := s.Kind(); shape == config.List || shape == config.String {
		k.make = sequence
	} else if named := s.Get("kind"); named != nil {
		if err := named.Decode(&kind); err != nil {
			b.add(s, "", err)
			return
		}
		var ok bool
		if k, ok = b.routers[kind]; !ok {
			b.unknown(s, "kind", "kind of flow", kind, slices.Sorted(maps.Keys(b.routers)))
			return
		}
	}
	router, err := k.make(build, s)
	b.add(s, "", err)
	if err != nil {
		return
	}
	b.plan.Router = router
	if d, ok := router.(interface{ Flow() route.Flow }); ok {
		b.plan.Flow = d.Flow()
	}
}

func (b *builder) metrics() {
	for _, name := range slices.Sorted(maps.Keys(b.run.Metrics)) {
		e := b.expr("metrics."+name, b.run.Metrics[name], lang.DoneLocals()...)
		if e == nil {
			continue
		}
		b.plan.Metrics[name] = func(t *matrix.Task) (any, error) { return e.EvalLocals(t, lang.Done(t)) }
		b.reads.add(b.root, "metrics."+name, e.Fields())
		b.seen = append(b.seen, source{section: b.root, field: "metrics." + name, source: e, ends: true})
	}
}

// expr compiles an expression of the config itself; nil when it does not.
func (b *builder) expr(field, src string, locals ...string) *lang.Expr {
	e, err := lang.CompileExpr(src, b.build.Params, locals...)
	if err != nil {
		b.add(b.root, field, err)
		return nil
	}
	b.speakers(b.root, field, e.Roles())
	return e
}

func (b *builder) dataset() {
	d := &b.run.Dataset
	rows, err := describe(b.run)
	if err != nil {
		var priority *unknownName
		if errors.As(err, &priority) && priority.hint == "" && sample(rows.Options).fed.names[d.Priority] {
			priority.msg += "; the field of a row is item." + d.Priority
		}
		b.add(b.root, "", err)
	}
	var where reads
	b.ofRow("dataset.where", rows.where, &where)
	b.ofRow("dataset.id", rows.id, &b.reads)
	b.ofRow("dataset.priority", rows.priority, &b.reads)
	if rows.IDField != "" {
		b.reads.add(b.root, "dataset.id", []string{d.ID})
	}
	src, err := rows.open(d.Follow)
	if err != nil {
		b.add(b.root, "", err)
		return
	}
	b.plan.Source = src
	var renamed []use
	for _, name := range slices.Sorted(maps.Keys(d.Rename)) {
		renamed = append(renamed, use{b.root, config.Join("dataset.rename", name), []string{d.Rename[name]}})
	}
	s := sample(rows.Options)
	s.read.check(&b.problems, renamed)
	for _, e := range b.plan.Flow.Edges {
		if e.Expand != "" { // rows' tasks lack it, and their children have it
			s.fed.names[e.As] = true
		}
	}
	before := len(b.errs)
	s.asked.check(&b.problems, where.uses)
	s.fed.check(&b.problems, b.reads.uses)
	for _, w := range []struct {
		field string
		expr  *lang.Expr
		err   error
	}{{"dataset.where", rows.where, s.where()}, {"dataset.priority", rows.priority, s.priority()}} {
		if w.err != nil && len(b.errs) == before {
			msg := "fails for each of the first rows: " + w.err.Error()
			if len(w.expr.TurnRefs()) > 0 {
				msg += "; it is asked of a row, which has no turns yet"
			}
			b.at(b.root, w.field, 0, 0, msg, "")
		}
	}
	b.plan.rows = s.fed
}

// ofRow notes an expression that is asked of each row, and the fields it reads.
func (b *builder) ofRow(field string, e *lang.Expr, into *reads) {
	if e == nil {
		return
	}
	b.speakers(b.root, field, e.Roles())
	into.add(b.root, field, e.Fields())
	b.seen = append(b.seen, source{section: b.root, field: field, source: e, row: true})
}

// speakers checks that turns may be of these names, which stand at field in s:
// of roles, or of the user who may open a task.
func (b *builder) speakers(s *config.Section, field string, names []string) {
	for _, name := range names {
		if _, ok := b.build.Roles[name]; ok || name == route.User || b.run.From.Run != "" && (b.spoke == nil || slices.Contains(b.spoke, name)) {
			continue
		}
		at := field
		for i, item := range s.Get(field).Items() { // of a list, the entry
			var entry string
			if item.Kind() == config.String && item.Decode(&entry) == nil && entry == name {
				at = config.Join(field, strconv.Itoa(i))
			}
		}
		b.unknown(s, at, "role", name, slices.Sorted(maps.Keys(b.build.Roles)))
	}
}

// isName reports whether a role may have this name.
func isName(s string) bool {
	for i, c := range s {
		switch {
		case c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		case i > 0 && (c == '-' || c >= '0' && c <= '9'):
		default:
			return false
		}
	}
	return s != ""
}

// list joins names: "a, b or c".
func list(names []string, last string) string {
	out := ""
	for i, n := range names {
		switch {
		case i == 0:
		case i == len(names)-1:
			out += " " + last + " "
		default:
			out += ", "
		}
		out += n
	}
	return out
}
