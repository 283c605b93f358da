// Package spec is what the YAML of a run may say: the struct that its config is
// decoded into, with defaults, documentation and checks in its tags (package
// config says which there are). What agents, models and flows hold stays a
// config.Section, whose types are in the registry.
package spec

import (
	"time"

	"matrix/internal/config"
)

// Run is the whole config of a run.
type Run struct {
	Name      string                     `yaml:"name" doc:"Name of the run; output goes to runs/NAME unless out says otherwise. Without it, the name of the file or its folder."`
	Out       string                     `yaml:"out" path:"here" free:"true" doc:"Output folder. Running on the same folder again resumes. Without it, runs/NAME in the working directory."`
	Seed      int64                      `yaml:"seed" doc:"Every random choice of the run derives from it." default:"0"`
	Live      int                        `yaml:"live" free:"true" doc:"Tasks under way at once." default:"1000"`
	Trials    Trials                     `yaml:"trials" doc:"Tasks made of each row, each with its own seed; 1,000,000 at most. until: rows come again, as new trials, until until is reached." default:"1"`
	Shards    int                        `yaml:"shards" doc:"Parts that the tasks are kept and written in, each with a queue of its own; 64 at most." default:"1"`
	Params    map[string]any             `yaml:"params" doc:"Your own knobs: ${name} refers to one, name=value on the command line sets one, and expressions and templates see params.name."`
	Dataset   Dataset                    `yaml:"dataset" required:"true" doc:"Where the rows come from."`
	From      From                       `yaml:"from" doc:"Tasks of an earlier run go on, in the place of rows of the dataset."`
	Models    map[string]*config.Section `yaml:"models" doc:"LLM services by name."`
	Pools     map[string]*config.Section `yaml:"pools" doc:"Sandboxes and tools that roles use, by name: docs/sandboxes.md."`
	Roles     map[string]Role            `yaml:"roles" required:"true" doc:"Who acts, by role."`
	Flow      *config.Section            `yaml:"flow" required:"true" doc:"Who acts after whom: a list of roles, or a graph."`
	Limits    Limits                     `yaml:"limits" doc:"Where a single task is cut short."`
	MaxFailed Share                      `yaml:"max_failed" free:"true" doc:"The run stops with exit code 1 where the last 100 steps of a role all failed their tasks in this session, or this share of at least 200; none: it never does. At its end it exits with 1 where a role failed all of its steps, 10 or more, or no task is done. Errors that the flow handles, and what it fails itself, do not count. --retry-failed tries the failed tasks again." default:"50%"`
	Budget    Budget                     `yaml:"budget" doc:"What the run may cost in all, over all its sessions. At its end the run stops cleanly with tasks pending; with a larger one it goes on."`
	Metrics   map[string]string          `yaml:"metrics" doc:"Expressions evaluated once a task is done, which see value, what its flow finished with; true counts as 1."`
	Unique    *Unique                    `yaml:"unique" doc:"Of tasks that are alike, the one that ends first is kept, and the others are dropped."`
	Pool      *Pool                      `yaml:"pool" doc:"What compute roles may draw from: rows of files, and what was kept so far."`
	Until     *Until                     `yaml:"until" doc:"The run ends once so many tasks are kept, as tasks that are done are, and cancels what is under way then."`
	Output    Output                     `yaml:"output" doc:"How finished rows are written."`
	Reuse     Paths                      `yaml:"reuse" path:"here" free:"true" doc:"Folders of earlier runs: a call that one of them has made already, word for word, is answered with the reply that stands there, at no cost, and each reply once."`
	Display   string                     `yaml:"display" free:"true" doc:"auto, live, plain or none." default:"auto" enum:"auto,live,plain,none"`
	Cluster   Cluster                    `yaml:"cluster" free:"true" doc:"Workers on other machines: docs/cluster.md."`
	Grace     time.Duration              `yaml:"grace" free:"true" doc:"How long calls in flight may still land after Ctrl-C; 0s ends them at once." default:"30s"`
}

// Dataset says which rows there are.
type Dataset struct {
	Path   Paths             `yaml:"path" required:"true" path:"here" free:"true" doc:"File, list of files or glob: .jsonl, .json, .csv, .parquet, .txt, .md, .html, .warc, .wet; all but .parquet also with .gz or .zst. Elsewhere: hf://datasets/ORG/NAME/FILE, s3://, gs://, https://; - for standard input."`
	ID     string            `yaml:"id" doc:"Field, or expression over item, that names a row. Without it a row's file and line are its id."`
	Skip   int64             `yaml:"skip" doc:"Rows left out at the beginning." default:"0"`
	Limit  int64             `yaml:"limit" doc:"At most so many rows; 0 for all." default:"0"`
	Where  string            `yaml:"where" doc:"Expression over item; rows for which it is false are left out."`
	Rename map[string]string `yaml:"rename" doc:"New field name to old one."`

	Sample  int64 `yaml:"sample" doc:"So many of the rows that where lets through, chosen at random by the run's seed; 0 for all." default:"0"`
	Shuffle bool  `yaml:"shuffle" doc:"Rows come in a random order, by the run's seed." default:"false"`

	Format string `yaml:"format" doc:"What the files are, where names and first bytes do not say it: jsonl, json (an array), csv, parquet, text, html or warc." enum:"jsonl,json,csv,parquet,text,html,warc"`
	Stdin  string `yaml:"-"` // the file that the path - stands for

	Follow   bool   `yaml:"follow" free:"true" doc:"Rows are appended to the last file while the run goes on, and the run waits for them, until a file of the same name with .end behind it is there." default:"false"`
	Priority string `yaml:"priority" free:"true" doc:"bulk, normal or urgent, or an expression over item that gives one of them: tasks of a higher class go before others wherever they wait for the same. A row keeps what it had when it was fed." default:"normal"`
}

// From says which tasks go on, and where.
type From struct {
	Run  string `yaml:"run" path:"here" doc:"Folder of a run. Each of its tasks that came to the role has its row, its id and the turns before the first one of the role; where the run has no such role, those that are done have all their turns. Of the dataset, where, skip, limit and priority hold; path, id and rename are not asked."`
	Role string `yaml:"role" doc:"Who acts next."`
}

// Paths is one path or a list of them.
type Paths []string

// Role is an agent under a name. Exactly one kind of agent is set; the kinds
// are in the registry.
type Role struct {
	Concurrency int                        `yaml:"concurrency" free:"true" doc:"Steps of this role at once in each process of the run: with workers, each of them has as many; 0 for as many as tasks are live." default:"0"`
	Inline      *bool                      `yaml:"inline" doc:"Act in the hop of the agent before, without a hop of its own. Compute agents do unless told otherwise."`
	Attempts    int                        `yaml:"attempts" doc:"Tries of one step before the task fails." default:"3"`
	Where       string                     `yaml:"where" free:"true" doc:"Of a run with workers on several machines: an expression over the labels of a machine, as gpu == \"h100\"; the role acts only where it is true. A run on one machine does not ask."`
	Agent       map[string]*config.Section `yaml:",inline"` // one entry: kind to its settings
}

// Limits cut a single task short.
type Limits struct {
	Rounds  int     `yaml:"rounds" doc:"Turns of any one role; 0 for no limit." default:"50"`
	Hops    int     `yaml:"hops" doc:"Hops of the task; 0 for 10,000." default:"10000"`
	Tokens  int     `yaml:"tokens" doc:"Prompt and completion tokens of the task; 0 for no limit." default:"0"`
	Seconds float64 `yaml:"seconds" doc:"Seconds that the task has waited and been acted on, as its turns tell; 0 for no limit. Time in which nothing ran does not count." default:"0"`
	Then    string  `yaml:"then" doc:"What becomes of a task at a limit: fail, or finish with the value null." default:"fail" enum:"fail,finish"`
}

// Unique says which tasks are alike.
type Unique struct {
	On        string   `yaml:"on" doc:"Expression over the finished task (and value, what its flow finished with) that gives the text to compare; null is compared with nothing." default:"last.text"`
	Method    string   `yaml:"method" doc:"exact: the same text; minhash: sets of ngram words, by their Jaccard index; embedding: vectors of a model, by their cosine." default:"minhash" enum:"exact,minhash,embedding"`
	Threshold float64  `yaml:"threshold" doc:"From which index or cosine on two texts are alike: of minhash 0.3 to 1." default:"0.8"`
	NGram     int      `yaml:"ngram" doc:"Words in a row that make an element of a set, with minhash; case and punctuation do not count." default:"5"`
	Model     string   `yaml:"model" doc:"Name of the model that embeds, with embedding. Its calls are added to those of a task's last turn."`
	Overlap   int      `yaml:"overlap" doc:"Words in a row that no text may have in common with those of against: 13 is usual; 0 does not ask." default:"0"`
	Against   Paths    `yaml:"against" path:"here" doc:"Files, as of a dataset, with whose texts all are compared, too: benchmarks, or what was made before."`
	Fields    []string `yaml:"against_fields" doc:"Fields of against that hold its texts, each one text; without it, all that are text."`
}

// Pool says what compute roles may draw from.
type Pool struct {
	Seeds Paths  `yaml:"seeds" required:"true" path:"here" doc:"Files, as of a dataset, whose rows are pool.seeds."`
	Kept  string `yaml:"kept" doc:"Expression over each task that is kept (and value, what its flow finished with), whose values are pool.kept; null is left out." default:"last.text"`
	Most  int    `yaml:"most" doc:"Of each at most so many, chosen at random, are in memory to be drawn." default:"10000"`
}

// Output says how finished rows are written.
type Output struct {
	Compress    string `yaml:"compress" doc:"none, gzip or zstd." default:"none" enum:"none,gzip,zstd"`
	RowsPerPart int    `yaml:"rows_per_part" doc:"Rows after which a new part file begins." default:"100000"`
	Dropped     string `yaml:"dropped" free:"true" doc:"What is written of a task that was dropped, in dropped/: full, all of it; turns, all but its item; reason, its id and why; none." default:"turns" enum:"full,turns,reason,none"`
	Export      Export `yaml:"export" free:"true" doc:"A training set in export/, made while the run goes on, part by part, and whole at its end: docs/training.md."`
}

// Export says which training set a run makes of the tasks that are done. The zero value
// makes none.
type Export struct {
	Format    string             `yaml:"format" doc:"What a row holds: messages, sharegpt, prompt-completion, alpaca, dpo, kto, tasks or columns."`
	As        string             `yaml:"as" doc:"Form of the files: jsonl, jsonl.gz, jsonl.zst, parquet or csv." default:"jsonl" enum:"jsonl,jsonl.gz,jsonl.zst,parquet,csv"`
	Assistant string             `yaml:"assistant" doc:"Role whose replies are learnt; may be left out where only one asks a model."`
	Tools     string             `yaml:"tools" doc:"How tools and arguments of their calls stand: object, text (JSON as text) or json (a type of Parquet); object by default, and text in Parquet."`
	UserFirst bool               `yaml:"user_first" doc:"Leave out what the assistant says before the first message of the user." default:"false"`
	Columns   map[string]string  `yaml:"columns" doc:"Expressions by name: columns, also beside those of a format."`
	Score     string             `yaml:"score" doc:"Of dpo: expression for the score of a reply, sample; null leaves the reply out. Of other dialogues: the reply with the best score is learnt."`
	MinMargin float64            `yaml:"min_margin" doc:"Of dpo: pairs whose scores are less apart are left out." default:"0"`
	Label     string             `yaml:"label" doc:"Of kto: expression that says whether a reply, sample, is good; null leaves the reply out."`
	Where     string             `yaml:"where" doc:"Only tasks for which this expression is true."`
	Split     map[string]float64 `yaml:"split" doc:"Shares of splits by name, which add up to 1; without it all rows are train."`
	Sort      string             `yaml:"sort" doc:"Order by this expression, smallest first."`
	Shuffle   bool               `yaml:"shuffle" doc:"Order at random, the same each time." default:"false"`
	Seed      int64              `yaml:"seed" doc:"Another order of shuffle." default:"0"`
	License   string             `yaml:"license" doc:"Licence of the rows for the dataset card, as the hub names it, such as apache-2.0."`
}

// Cluster says how processes on other machines join the run.
type Cluster struct {
	Serve     string   `yaml:"serve" free:"true" doc:"Where this process lets workers join: HOST:PORT; :PORT for all addresses of this machine; PORT for itself alone; port 0 for a free one, which the run keeps. Off this machine it speaks TLS. Without it nobody can join."`
	Advertise []string `yaml:"advertise" free:"true" doc:"HOST or HOST:PORT under which workers reach it, where that is not what this machine finds itself."`
	NoWork    bool     `yaml:"no_work" free:"true" doc:"With serve: this process feeds and writes, and leaves all steps to workers." default:"false"`

	Peers []string `yaml:"peers" free:"true" doc:"With serve: HOST, or HOST:PORT, of three or five heads, this one among them, as they and workers reach each other. One leads, and when it is gone another one does."`
	NATS  string   `yaml:"nats" free:"true" secret:"true" doc:"With serve, instead of peers: URL of NATS servers with JetStream that keep the run for its heads; several with commas between."`
	Store string   `yaml:"store" free:"true" path:"here" doc:"With peers or nats: folder on a disk of this machine for what a head keeps of the run; not one that heads share."`
}

// Heads reports whether a run has several heads.
func (c *Cluster) Heads() bool { return len(c.Peers) > 0 || c.NATS != "" }
