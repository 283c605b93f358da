package export

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"matrix/internal/human"
)

// CardFile is the dataset card in a folder that is written, as the hub reads it.
const CardFile = "README.md"

// cardMark is in each card that is written.
const cardMark = "made with Matrix"

// Recipe is how a run made its rows, for the dataset card. It holds no secrets.
type Recipe struct {
	Name    string
	Version string // of this program
	License string // an identifier of the hub, such as apache-2.0; empty where nobody said
	Seed    int64
	Config  []byte              // YAML, with its prompts
	Ends    []Count             // tasks by how they ended
	Reasons []Count             // of those that the flow dropped
	USD     float64             // 0 where nothing is known to have been paid
	Hide    func(string) string `json:"-"` // what is secret in a text, before it is written
}

// Count is how often there was something.
type Count struct {
	What string
	N    int64
}

// card is the dataset card of a folder with these files: front matter by which
// load_dataset and the hub find the splits, and the recipe.
func (r *Recipe) card(o *Options, x *Result) []byte {
	var b bytes.Buffer
	list := func(key string, values ...string) {
		fmt.Fprintf(&b, "%s:\n", key)
		for _, v := range values {
			fmt.Fprintf(&b, "- %s\n", v)
		}
	}
	b.WriteString("---\n")
	if r.License != "" {
		fmt.Fprintf(&b, "license: %s\n", quoted(r.License))
	}
	fmt.Fprintf(&b, "pretty_name: %s\n", quoted(r.Name))
	list("size_categories", sizeOf(x.Rows()))
	list("tags", append([]string{"synthetic", "matrix"}, tags[o.Format]...)...)
	b.WriteString("configs:\n- config_name: default\n  data_files:\n")
	for _, s := range x.splits() {
		fmt.Fprintf(&b, "  - split: %s\n    path: %s/%s-*\n", quoted(s.Split), DataDir, s.Split)
	}
	b.WriteString("---\n\n")
	fmt.Fprintf(&b, "# %s\n\n", oneLine(r.Name))
	fmt.Fprintf(&b, "Synthetic data, "+cardMark+"%s%s. A row is in the format `%s`%s.\n\n", word(r.Version), made(&x.Made), o.Format, whose(o))
	table(&b, "split|rows|files|bytes", func(row func(...any)) {
		for _, s := range x.splits() {
			row(s.Split, human.Commas(s.Rows), s.n, human.Commas(s.Bytes))
		}
	})
	if r.License == "" {
		b.WriteString("Nobody has said which licence the rows have: that of the dataset they come from and the terms of the models that answered decide.\n\n")
	}
	b.WriteString("## How it was made\n\n")
	table(&b, "what became of tasks|count", func(row func(...any)) {
		for _, c := range r.Ends {
			row(c.What, human.Commas(c.N))
		}
		for _, c := range r.Reasons {
			row("dropped: "+c.What, human.Commas(c.N))
		}
		row("looked at for this dataset", human.Commas(x.Tasks))
		for _, c := range x.LeftBy() {
			row("left out: "+c.What, human.Commas(c.N))
		}
	})
	table(&b, "role|model|answered by|revision|calls|prompt tokens|reply tokens", func(row func(...any)) {
		for i := range x.Made.Models {
			m := &x.Made.Models[i]
			row(m.Role, m.Name, m.Model, m.Revision, human.Commas(m.Calls), human.Commas(m.Prompt), human.Commas(m.Reply))
		}
	})
	facts := [][2]string{{"Seed", fmt.Sprint(r.Seed)}}
	if r.USD > 0 {
		facts = append(facts, [2]string{"Cost of the run", fmt.Sprintf("$%.2f", r.USD)})
	}
	for _, f := range [][2]string{{"Only tasks for which", o.Where}, {"Score of a reply", o.Score}, {"Label of a reply", o.Label}, {"Order", o.Sort}} {
		if f[1] != "" {
			facts = append(facts, [2]string{f[0], "`" + oneLine(f[1]) + "`"})
		}
	}
	for _, f := range facts {
		fmt.Fprintf(&b, "- %s: %s\n", f[0], f[1])
	}
	if len(r.Config) > 0 {
		fence := fenceFor(r.Config)
		fmt.Fprintf(&b, "\nThe config of the run, with all prompts:\n\n%syaml\n%s\n%s\n", fence, bytes.TrimSpace(r.Config), fence)
	}
	text := b.String()
	if r.Hide != nil {
		text = r.Hide(text)
	}
	return []byte(text)
}

// write writes the card into the folder, whole or not at all.
func (r *Recipe) write(o *Options, x *Result, scratch string) error {
	temp := filepath.Join(scratch, CardFile)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(r.card(o, x))
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		return full(filepath.Join(o.Out, CardFile), err)
	}
	return os.Rename(temp, filepath.Join(o.Out, CardFile))
}

// splitSum is what a split comes to.
type splitSum struct {
	File
	n int // files
}

func (r *Result) splits() (all []*splitSum) {
	for _, f := range r.Files {
		i := slices.IndexFunc(all, func(s *splitSum) bool { return s.Split == f.Split })
		if i < 0 {
			i = len(all)
			all = append(all, &splitSum{File: File{Split: f.Split}})
		}
		all[i].Rows, all[i].Bytes, all[i].n = all[i].Rows+f.Rows, all[i].Bytes+f.Bytes, all[i].n+1
	}
	return all
}

// tags are those of the hub by which a dataset of a format is found.
var tags = map[Format][]string{
	Messages: {"sft", "conversational"}, ShareGPT: {"sft", "conversational"}, PromptCompletion: {"sft"}, Alpaca: {"sft", "instruction"},
	DPO: {"dpo", "preference"}, KTO: {"kto"},
}

// sizeOf is the hub's word for so many rows:
// https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
func sizeOf(n int64) string {
	at, names := int64(1000), []string{"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B", "100B<n<1T"}
	for _, name := range names {
		if n < at {
			return name
		}
		at *= 10
	}
	return "n>1T"
}

func made(m *Made) string {
	first, last := m.First.UTC().Format(time.DateOnly), m.Last.UTC().Format(time.DateOnly)
	switch {
	case m.First.IsZero():
		return ""
	case first == last:
		return " on " + first
	}
	return " from " + first + " to " + last
}

func whose(o *Options) string {
	if o.Role == "" {
		return ""
	}
	return fmt.Sprintf(", of what the role `%s` was asked and replied", o.Role)
}

func word(s string) string {
	if s == "" {
		return ""
	}
	return " " + oneLine(s)
}

// table writes a table of Markdown, and nothing where it has no row.
func table(b *bytes.Buffer, head string, rows func(row func(...any))) {
	n := 0
	rows(func(cells ...any) {
		if n++; n == 1 {
			fmt.Fprintf(b, "| %s |\n|%s\n", strings.ReplaceAll(head, "|", " | "), strings.Repeat("---|", strings.Count(head, "|")+1))
		}
		for _, c := range cells {
			fmt.Fprintf(b, "| %s ", strings.ReplaceAll(oneLine(fmt.Sprint(c)), "|", `\|`))
		}
		b.WriteString("|\n")
	})
	if n > 0 {
		b.WriteString("\n")
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// quoted is a text as a value of YAML.
func quoted(s string) string {
	if plainYAML.MatchString(s) && len(s) > 5 {
		return s
	}
	b, _ := json.Marshal(s) // which YAML reads
	return string(b)
}

// plainYAML is what YAML reads as the text that it is, words such as yes apart.
var plainYAML = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]$`)

// fenceFor is a fence that the text does not hold.
func fenceFor(text []byte) string {
	fence := "```"
	for bytes.Contains(text, []byte(fence)) {
		fence += "`"
	}
	return fence
}
