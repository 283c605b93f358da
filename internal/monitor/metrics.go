package monitor

import (
	"io"
	"log"
	"net/http"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"matrix"
	"matrix/session"
)

// quiet is for servers whose clients are not to write into the terminal of a run.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// metrics answers in the text format of Prometheus: the metrics of the process and
// of Go that its library brings, and those of the run.
func (s *Server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector{s})
	return promhttp.HandlerFor(prometheus.Gatherers{r, prometheus.DefaultGatherer}, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// collector makes metrics of the status of a server when it is asked. Their names
// and labels depend on the run, so it describes none in advance.
type collector struct{ *Server }

// Describe implements prometheus.Collector.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	m := metrics{to}
	v := c.Status()
	m.gauge("matrix_build_info", "Always 1; what the process is.", 1, "version", c.o.Version, "goversion", runtime.Version())
	m.gauge("matrix_ready", "1 while the process works, 0 while it starts or stops.", number(v.State == Running))
	if v.Snapshot == nil {
		return
	}
	m.gauge("matrix_run_info", "Always 1; which run it is.", 1, "run", v.Name)
	if !c.o.Worker {
		m.run(v.Snapshot)
	}
	m.roles(v.Snapshot, c.o.Worker)
	m.models(v.Snapshot)
	m.pools(v.Snapshot)
}

// metrics writes metrics; labels are names and values by turns.
type metrics struct{ to chan<- prometheus.Metric }

func (m metrics) gauge(name, help string, v float64, labels ...string) {
	m.add(prometheus.GaugeValue, name, help, v, labels)
}

func (m metrics) counter(name, help string, v float64, labels ...string) {
	m.add(prometheus.CounterValue, name, help, v, labels)
}

func (m metrics) add(kind prometheus.ValueType, name, help string, v float64, labels []string) {
	names, values := pairs(labels)
	x, err := prometheus.NewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, v, values...)
	m.send(x, err, name, help, names)
}

// summary writes how many there were and what they come to.
func (m metrics) summary(name, help string, count int64, sum float64, labels ...string) {
	names, values := pairs(labels)
	x, err := prometheus.NewConstSummary(prometheus.NewDesc(name, help, names, nil), uint64(max(0, count)), sum, nil, values...)
	m.send(x, err, name, help, names)
}

func (m metrics) send(x prometheus.Metric, err error, name, help string, labels []string) {
	if err != nil {
		x = prometheus.NewInvalidMetric(prometheus.NewDesc(name, help, labels, nil), err)
	}
	m.to <- x
}

func pairs(labels []string) (names, values []string) {
	for i := 0; i+1 < len(labels); i += 2 {
		names = append(names, labels[i])
		values = append(values, strings.ToValidUTF8(labels[i+1], "\uFFFD"))
	}
	return names, values
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// run writes what is of the whole run.
func (m metrics) run(v *session.Snapshot) {
	const tasks = "Tasks by state. Pending are those that are not settled, and is missing while rows may still come."
	m.gauge("matrix_tasks", tasks, float64(v.Done), "state", "done")
	m.gauge("matrix_tasks", tasks, float64(v.Dropped), "state", "dropped")
	m.gauge("matrix_tasks", tasks, float64(v.Expanded), "state", "expanded")
	m.gauge("matrix_tasks", tasks, float64(v.Failed), "state", "failed")
	if v.Pending >= 0 {
		m.gauge("matrix_tasks", tasks, float64(v.Pending), "state", "pending")
	}
	if v.Goal > 0 {
		m.gauge("matrix_tasks", tasks, float64(v.Unused), "state", "unused")
		m.gauge("matrix_tasks_goal", "Done tasks with which the run ends, of all kinds together.", float64(v.Goal))
	}
	m.gauge("matrix_tasks_live", "Pending tasks that are under way.", float64(v.Live))
	for _, fault := range []matrix.Fault{matrix.FaultFlow, matrix.FaultStep, matrix.FaultRouter, matrix.FaultLimit, matrix.FaultRow} {
		m.gauge("matrix_tasks_failed", "Failed tasks by what made them fail.", float64(v.Faults[fault]), "fault", string(fault))
	}
	m.gauge("matrix_run_finished", "1 once all tasks are settled.", number(v.Finished))
	m.counter("matrix_run_seconds_total", "Time of work over all sessions of the run.", v.Seconds)
	for name, x := range v.Metrics {
		m.gauge("matrix_metric_tasks", "Done tasks that a metric of the config speaks of.", float64(x.Count), "metric", name)
		if x.Mean != nil {
			m.gauge("matrix_metric_mean", "Mean of a metric of the config over done tasks.", *x.Mean, "metric", name)
		}
	}
	if x := v.Spending; x != nil {
		m.counter("matrix_run_cost_dollars_total", "What all calls of the run have cost, over all sessions and processes.", x.USD)
		m.counter("matrix_run_tokens_total", "Tokens of prompts and replies of the run, over all sessions and processes.", float64(x.Tokens))
		if x.Limit != nil && x.Limit.USD > 0 {
			m.gauge("matrix_budget_dollars", "What the run may cost.", x.Limit.USD)
		}
		if x.Limit != nil && x.Limit.Tokens > 0 {
			m.gauge("matrix_budget_tokens", "Tokens that the run may take.", float64(x.Limit.Tokens))
		}
	}
	if v.Workers == nil {
		return
	}
	states := map[string]float64{"joining": 0, "working": 0, "draining": 0, "leaving": 0, "silent": 0}
	slots := 0
	for i := range v.Workers {
		states[v.Workers[i].State]++
		slots += v.Workers[i].Slots
	}
	for state, n := range states {
		m.gauge("matrix_workers", "Workers in other processes by state.", n, "state", state)
	}
	m.gauge("matrix_worker_slots", "Steps at once of the workers for which that is bounded.", float64(slots))
}

// roles writes what the roles do: in the whole run, or at a worker.
func (m metrics) roles(v *session.Snapshot, worker bool) {
	for _, r := range v.Roles {
		if !worker {
			m.gauge("matrix_role_tasks_waiting", "Tasks that wait for a role.", float64(r.Waiting), "role", r.Name)
			m.gauge("matrix_role_unserved", "1 while tasks wait for the role, and no process that is there serves it.", number(r.Unserved), "role", r.Name)
		}
		m.gauge("matrix_role_steps_acting", "Steps of a role under way.", float64(r.Acting), "role", r.Name)
		m.counter("matrix_role_hops_total", "Hops of a role.", float64(r.Hops), "role", r.Name)
		m.counter("matrix_role_failures_total", "Turns of a role that failed their tasks.", float64(r.RoleProgress.Failed), "role", r.Name)
	}
	if !worker {
		return
	}
	serves := 0
	for _, r := range v.Roles {
		if !r.Unserved {
			serves++
		}
	}
	m.gauge("matrix_worker_roles", "Roles that this worker serves.", float64(serves))
}

// models writes what the models of this process do.
func (m metrics) models(v *session.Snapshot) {
	for i := range v.Models {
		x := &v.Models[i]
		const calls = "Calls of a model by outcome: reply, or failed for good. Calls that were stopped are neither."
		m.counter("matrix_model_calls_total", calls, float64(x.Calls), "model", x.Name, "outcome", "reply")
		m.counter("matrix_model_calls_total", calls, float64(x.Stats.Failed), "model", x.Name, "outcome", "failed")
		m.counter("matrix_model_retries_total", "Failed tries of calls that were repeated.", float64(x.Retries), "model", x.Name)
		m.summary("matrix_model_reply_duration_seconds", "How long replies took, by the tries that brought them.", x.Calls, x.Seconds, "model", x.Name)
		m.gauge("matrix_model_calls_in_flight", "Calls at the service.", float64(x.InFlight), "model", x.Name)
		m.gauge("matrix_model_calls_waiting", "Calls that wait for a slot at the service.", float64(x.Stats.Waiting), "model", x.Name)
		m.gauge("matrix_model_calls_limit", "Calls at the service at once, as found or set; 0 for no limit.", float64(x.Limit), "model", x.Name)
		m.gauge("matrix_model_paused", "1 while no endpoint of the model answers and its calls wait.", number(x.Paused != nil), "model", x.Name)
		m.counter("matrix_model_prompt_tokens_total", "Tokens of prompts.", float64(x.PromptTokens), "model", x.Name)
		m.counter("matrix_model_cached_tokens_total", "Tokens of prompts that came from a cache of the service.", float64(x.CachedTokens), "model", x.Name)
		m.counter("matrix_model_completion_tokens_total", "Tokens of replies.", float64(x.CompletionTokens), "model", x.Name)
		m.counter("matrix_model_cost_dollars_total", "What the calls of this process have cost.", x.USD, "model", x.Name)
		seen := map[string]bool{}
		for _, e := range x.Endpoints {
			if seen[e.URL] {
				continue
			}
			seen[e.URL] = true
			m.gauge("matrix_endpoint_up", "0 while an endpoint gets no calls because of a fault.", number(e.Fault == nil), "model", x.Name, "endpoint", e.URL)
			m.counter("matrix_endpoint_replies_total", "Replies of an endpoint.", float64(e.Calls), "model", x.Name, "endpoint", e.URL)
			m.gauge("matrix_endpoint_calls_in_flight", "Calls at an endpoint.", float64(e.InFlight), "model", x.Name, "endpoint", e.URL)
			m.gauge("matrix_endpoint_calls_limit", "Calls at an endpoint at once, as found or set; 0 for no limit.", float64(e.Limit), "model", x.Name, "endpoint", e.URL)
		}
	}
}

var _ prometheus.Collector = collector{}

// pools are those of sandboxes, of this process.
func (m metrics) pools(v *session.Snapshot) {
	for i := range v.Pools {
		p := &v.Pools[i]
		m.gauge("matrix_pool_size", "Sandboxes that have room at once.", float64(p.Size), "pool", p.Name)
		m.gauge("matrix_pool_sandboxes", "Sandboxes that have processes.", float64(p.Held), "pool", p.Name)
		m.gauge("matrix_pool_waiting", "Steps that wait for a sandbox.", float64(p.Waiting), "pool", p.Name)
		m.counter("matrix_pool_commands_total", "Commands that were run.", float64(p.Execs), "pool", p.Name)
		m.counter("matrix_pool_started_total", "Sandboxes that were started.", float64(p.Made), "pool", p.Name)
		m.counter("matrix_pool_lost_total", "Sandboxes that ended unasked.", float64(p.Lost), "pool", p.Name)
	}
}
