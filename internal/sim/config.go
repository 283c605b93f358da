package sim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"text/template"
	"time"

	"matrix/internal/near"
	"matrix/llm"
)

// Config says what is simulated.
type Config struct {
	Preset   string  `yaml:"preset" doc:"What serves: 8b or 70b, a batching engine with a model of that size on one GPU, or slots, so many calls at once that take a drawn time each." default:"8b" enum:"8b,70b,slots"`
	Model    string  `yaml:"model" doc:"Name of the model that is served. Without it, sim- and the preset."`
	Replicas int     `yaml:"replicas" free:"true" doc:"Servers, each with an engine of its own." default:"1"`
	Slots    int     `yaml:"slots" free:"true" doc:"Calls that one server works on at once; 0 for what the preset has (slots: 200)." default:"0"`
	Queue    int     `yaml:"queue" free:"true" doc:"Calls that may wait at one server for a slot; more are refused with 429. 0 for no limit, -1 for none." default:"0"`
	Steps    []Step  `yaml:"steps" free:"true" doc:"Changes of slots on a schedule."`
	Engine   Costs   `yaml:"engine" doc:"What a batching engine takes and has, where it is not as in the preset."`
	Latency  Latency `yaml:",inline"`
	Replies  Replies `yaml:",inline"`
	Faults   []Fault `yaml:"faults" free:"true" doc:"What goes wrong and when: KIND:SHARE@FROM-UNTIL,key=value, or its parts."`
	Storm    string  `yaml:"storm" free:"true" doc:"Faults by name: 429, outage, mixed, minute or half, from 5 s on; outage@20s begins later."`
	Clock    string  `yaml:"clock" free:"true" doc:"When the schedule of faults and steps begins: at the first call, or at the start." default:"first" enum:"first,start"`
	Seed     int64   `yaml:"sim_seed" doc:"All that is drawn derives from it." default:"0"`

	// Of a server over HTTP alone.
	Host   string `yaml:"-"` // 127.0.0.1 where it is empty
	Port   int    `yaml:"-"` // of the first replica, the others behind it; 0 for any that are free
	APIKey string `yaml:"-"` // wanted of every call; empty for none

	Log io.Writer `yaml:"-"` // takes an Entry for every call, as a line of JSON, when it is over; nil for none
}

// Latency is how long a call takes with the preset slots.
type Latency struct {
	Mean  time.Duration `yaml:"latency" free:"true" doc:"Of preset slots: mean time of a call." default:"2s"`
	Sigma float64       `yaml:"sigma" free:"true" doc:"Of preset slots: spread of that time, sigma of a lognormal; 0 for none." default:"0"`
}

// Replies says what the replies are.
type Replies struct {
	Kind     string  `yaml:"reply" doc:"text of drawn length, echo of the last message, template, or file." default:"text" enum:"text,echo,template,file"`
	Tokens   float64 `yaml:"reply_tokens" doc:"Of text: mean length in tokens." default:"128"`
	Sigma    float64 `yaml:"reply_sigma" doc:"Of text: spread of the length, sigma of a lognormal; 0 for none." default:"0.6"`
	Template string  `yaml:"template" doc:"Of reply template: Go text/template over .Prompt (the last message), .System, .Messages (each with .Role and .Content), .Turn (assistant messages before) and .N (which of n replies); words N makes text, pick A B ... draws one, contains TEXT PART compares."`
	Path     string  `yaml:"replies" path:"true" doc:"Of reply file: JSONL with reply, and prompt for replies that go with a last message; those without prompt are given in order, again from the first after the last."`
	NoTool   float64 `yaml:"no_tool_share" doc:"Share of the calls that may ask for a tool (tool_choice auto) and are answered with a text instead." default:"0"`
}

// Step changes the slots of every replica.
type Step struct {
	At    time.Duration `yaml:"at" required:"true" doc:"When, on the clock of the faults."`
	Slots int           `yaml:"slots" required:"true" doc:"Slots from then on."`
}

// UnmarshalText reads SLOTS@TIME: 400@20s.
func (s *Step) UnmarshalText(text []byte) error {
	n, at, ok := strings.Cut(string(text), "@")
	d, err := time.ParseDuration(at)
	if _, e := fmt.Sscanf(n, "%d", &s.Slots); !ok || e != nil || err != nil {
		return fmt.Errorf("got %q, want SLOTS@TIME, such as 400@20s", text)
	}
	s.At = d
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (s Step) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d@%v", s.Slots, s.At), nil }

// Costs is what a step of a batching engine takes, and what the engine has. A
// step takes Base, and PerSequence for each sequence in it, PerContext for each
// token that these attend to, PerPrompt for each token of prompts in it.
type Costs struct {
	Base        time.Duration `yaml:"base" doc:"Time of a step; reading the weights."`
	PerSequence time.Duration `yaml:"per_sequence" doc:"More for each sequence in it."`
	PerContext  time.Duration `yaml:"per_context" doc:"More for each token of context of these; reading the KV cache."`
	PerPrompt   time.Duration `yaml:"per_prompt" doc:"More for each token of prompts in it."`
	Sequences   int           `yaml:"max_num_seqs" doc:"Most sequences in a step."`
	Batched     int           `yaml:"max_num_batched_tokens" doc:"Most tokens in a step; longer prompts take several."`
	KV          int           `yaml:"kv_tokens" doc:"Tokens that the KV cache holds, in blocks of 16."`
	Context     int           `yaml:"max_model_len" doc:"Most tokens of a prompt and its reply."`
	NoPrefix    bool          `yaml:"no_prefix_cache" doc:"Prompts that begin alike are computed again."`
}

const presetSlots = "slots"

// presets are what costs are where a config does not say. They were fitted by
// hand to published throughputs:
//
// NVIDIA, TensorRT-LLM performance overview, v1.0, output tokens/s at maximum
// load, by tokens of prompt and reply
// (https://github.com/NVIDIA/TensorRT-LLM/blob/v1.0.0/docs/source/performance/perf-overview.md).
// Llama 3.1 8B, FP8, one H100 80 GB: 128/2048 22,714; 500/2000 17,660; 1000/1000 15,220;
// 1000/2000 13,899; 2048/128 3,450; 2048/2048 9,305; 5000/500 3,459;
// 20000/2000 1,351. Llama 3.3 70B (as 3.1 70B), FP8, one H200 141 GB, since one
// H100 has no room for it: 128/2048 4,336; 500/2000 3,666; 1000/1000 2,909; 1000/2000 2,994;
// 2048/128 442; 2048/2048 2,003; 5000/500 566; 20000/2000 283. TestPublished
// holds the engine to them.
//
// The base of 8b is the time between tokens at concurrency 1 (4.63 ms) that
// NVIDIA gives for Llama 3.1 8B in NIM 1.8.0
// (https://docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance); that of 70b
// is 70.6 GB of weights at the 4.8 TB/s of an H200, and an eighth on top. The KV
// cache is what 90% of the GPU's memory leaves beside the weights, at 2 x layers
// x 8 heads x 128 bytes a token in FP8: 64 KiB and 160 KiB; reading it at the
// GPU's bandwidth is 20 and 34 ns a token. Sequences and batched tokens are
// vLLM's defaults for a server on such a GPU.
var presets = map[string]Costs{
	"8b": {
		Base: 4600 * time.Microsecond, PerSequence: 8 * time.Microsecond, PerContext: 21 * time.Nanosecond, PerPrompt: 13300 * time.Nanosecond,
		Sequences: 1024, Batched: 8192, KV: 950_000, Context: 131_072,
	},
	"70b": {
		Base: 16500 * time.Microsecond, PerSequence: 55 * time.Microsecond, PerContext: 36 * time.Nanosecond, PerPrompt: 115 * time.Microsecond,
		Sequences: 1024, Batched: 8192, KV: 308_000, Context: 131_072,
	},
	presetSlots: {Context: 131_072},
}

// complete returns c with everything set, or a *llm.FieldError.
func (c Config) complete() (Config, error) {
	bad := func(field, format string, a ...any) (Config, error) {
		return c, &llm.FieldError{Field: field, Err: fmt.Errorf(format, a...)}
	}
	c.Preset = cmp.Or(c.Preset, "8b")
	p, ok := presets[c.Preset]
	if !ok {
		return bad("preset", "there is no preset %q: want 8b, 70b or slots%s", c.Preset, hint(c.Preset, "8b", "70b", presetSlots))
	}
	c.Model = cmp.Or(c.Model, "sim-"+c.Preset)
	c.Replicas = cmp.Or(c.Replicas, 1)
	switch {
	case c.Replicas < 0 || c.Replicas > 1000:
		return bad("replicas", "got %d, want 1 to 1000", c.Replicas)
	case c.Slots < 0:
		return bad("slots", "got %d, want 0 or more", c.Slots)
	case c.Queue < -1:
		return bad("queue", "got %d, want -1 for none, 0 for no limit, or more", c.Queue)
	case c.Port < 0 || c.Port > 65535:
		return bad("port", "got %d, want 0 to 65535", c.Port)
	case c.Port > 0 && c.Port+c.Replicas > 65536:
		return bad("port", "got %d for %d replicas, each with a port of its own: want 0 to %d", c.Port, c.Replicas, 65536-c.Replicas)
	}
	for i, s := range c.Steps {
		if s.At < 0 || s.Slots < 1 {
			return bad("steps", "entry %d: got %d slots at %v, want 1 or more at 0s or later", i+1, s.Slots, s.At)
		}
	}
	if err := c.Engine.over(p); err != nil {
		return c, err
	}
	switch {
	case c.Slots > 0:
		c.Engine.Sequences = c.Slots
	case c.Preset == presetSlots:
		c.Slots = 200
	}
	c.Latency.Mean = cmp.Or(c.Latency.Mean, 2*time.Second)
	if c.Latency.Mean < 0 {
		return bad("latency", "got %v, want more than 0", c.Latency.Mean)
	}
	if !spread(c.Latency.Sigma) {
		return bad("sigma", "got %v, want 0 to 4", c.Latency.Sigma)
	}
	if err := c.Replies.complete(); err != nil {
		return c, err
	}
	return c.schedule()
}

// Schedule is what goes wrong at a service of c: its faults, and those of its
// storm behind them, with all that they leave open filled in. An error is a
// *llm.FieldError.
func (c Config) Schedule() ([]Fault, error) {
	c, err := c.schedule()
	return c.Faults, err
}

// schedule completes what stands on the clock.
func (c Config) schedule() (Config, error) {
	c.Clock = cmp.Or(c.Clock, clockFirst)
	if c.Clock != clockFirst && c.Clock != clockStart {
		return c, &llm.FieldError{Field: "clock", Err: fmt.Errorf("got %q, want first or start", c.Clock)}
	}
	storm, err := stormFaults(c.Storm, c.Replicas)
	if err != nil {
		return c, &llm.FieldError{Field: "storm", Err: err}
	}
	all := make([]Fault, 0, len(c.Faults)+len(storm))
	for i, f := range c.Faults {
		if err := f.complete(c.Replicas); err != nil {
			return c, &llm.FieldError{Field: "faults", Err: fmt.Errorf("entry %d: %w", i+1, err)}
		}
		all = append(all, f)
	}
	c.Faults, c.Storm = append(all, storm...), ""
	return c, nil
}

// over fills what c leaves open from p.
func (c *Costs) over(p Costs) error {
	err := cmp.Or(
		orPreset("base", &c.Base, p.Base), orPreset("per_sequence", &c.PerSequence, p.PerSequence),
		orPreset("per_context", &c.PerContext, p.PerContext), orPreset("per_prompt", &c.PerPrompt, p.PerPrompt),
		orPreset("max_num_seqs", &c.Sequences, p.Sequences), orPreset("max_num_batched_tokens", &c.Batched, p.Batched),
		orPreset("kv_tokens", &c.KV, p.KV), orPreset("max_model_len", &c.Context, p.Context),
	)
	if err != nil {
		return err
	}
	if p.KV > 0 {
		c.KV = max(2*block, c.KV/block*block)
		c.Context = min(c.Context, c.KV-block)
	}
	return nil
}

// orPreset fills in what is not set.
func orPreset[T int | time.Duration](key string, got *T, otherwise T) error {
	if *got < 0 {
		return &llm.FieldError{Field: "engine." + key, Err: fmt.Errorf("got %v, want %v or more", *got, T(0))}
	}
	*got = cmp.Or(*got, otherwise)
	return nil
}

// complete checks r and fills it.
func (r *Replies) complete() error {
	bad := func(field, format string, a ...any) error {
		return &llm.FieldError{Field: field, Err: fmt.Errorf(format, a...)}
	}
	r.Kind = cmp.Or(r.Kind, "text")
	r.Tokens = cmp.Or(r.Tokens, 128)
	if r.Tokens < 1 || r.Tokens > 1e6 || math.IsNaN(r.Tokens) {
		return bad("reply_tokens", "got %v, want 1 to 1000000", r.Tokens)
	}
	if !spread(r.Sigma) {
		return bad("reply_sigma", "got %v, want 0 to 4", r.Sigma)
	}
	if !(r.NoTool >= 0 && r.NoTool <= 1) {
		return bad("no_tool_share", "got %v, want 0 to 1", r.NoTool)
	}
	switch r.Kind {
	case "text", "echo":
	case "template":
		if r.Template == "" {
			return &llm.FieldError{Field: "template", Err: errors.New("is missing: reply is template")}
		}
		if _, err := template.New("template").Funcs(funcs(0)).Parse(r.Template); err != nil {
			return &llm.FieldError{Field: "template", Err: err}
		}
	case "file":
		if r.Path == "" {
			return &llm.FieldError{Field: "replies", Err: errors.New("is missing: reply is file")}
		}
	default:
		return bad("reply", "got %q, want text, echo, template or file%s", r.Kind, hint(r.Kind, "text", "echo", "template", "file"))
	}
	return nil
}

// spread reports whether s can be the sigma of a lognormal.
func spread(s float64) bool { return s >= 0 && s <= 4 }

// hint names the nearest of the names.
func hint(got string, names ...string) string {
	if n := near.Name(got, names); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return ""
}
