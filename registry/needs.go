package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	stdpath "path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"matrix/agent"
	"matrix/dataset"
	"matrix/internal/bundle"
	"matrix/internal/config"
	"matrix/internal/launch"
	"matrix/lang"
	"matrix/spec"
)

// needs is what a config draws on beside its own text, as far as its keys do not say so
// themselves.
type needs struct {
	images   []string // folders that rows name images in
	commands []neededCommand

	functions map[string]neededFunction  // FILE:FUNCTION, by their keys
	pythons   map[string]string          // interpreters that stand in files, which are not sent: by their keys
	served    map[string]*config.Section // models whose servers are started by us, by name
}

type neededCommand struct {
	key    string // of its section
	config agent.Command
}

type neededFunction struct{ file, function string }

func (n *needs) imagesIn(dir string) {
	if dir != "" && !slices.Contains(n.images, dir) {
		n.images = append(n.images, dir)
	}
}

// lacking is what is known of s not to be here; nil where nothing is.
func (b *builder) lacking(s *config.Section) error {
	if b.use != ToWork {
		return nil
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(b.Lacking)) {
		if rest, ok := strings.CutPrefix(key, s.Path()); ok && (rest == "" || rest[0] == '.') {
			errs = append(errs, &lang.FieldError{Field: strings.TrimPrefix(rest, "."), Err: b.Lacking[key]})
		}
	}
	if at := s.Get("endpoints"); strings.HasPrefix(s.Path(), "models.") && at != nil {
		errs = append(errs, lackingPrograms("endpoints", at)...)
	}
	return errors.Join(errs...)
}

// lackingPrograms are programs that list the endpoints at a key, and are not here.
func lackingPrograms(key string, at *config.Section) (errs []error) {
	for i, item := range at.Items() {
		errs = append(errs, lackingPrograms(fmt.Sprintf("%s.%d", key, i), item)...)
	}
	var command []string
	if c := at.Get("command"); at.Kind() != config.Map || c == nil || c.Decode(&command) != nil || len(command) == 0 {
		return errs // what is wrong with it is found where it is used
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		errs = append(errs, &lang.FieldError{Field: key + ".command", Err: fmt.Errorf("cannot run %s: %w", command[0], errors.Unwrap(err))})
	}
	return errs
}

// lackModel leaves out a model that cannot be made here: roles that ask it lack what it
// does.
func (b *builder) lackModel(name string, s *config.Section, err error) {
	delete(b.build.Models, name)
	p := problems{root: b.root}
	p.add(s, "", err)
	b.build.notes.lacking[name] = p.errs
}

// sentences says what is wrong with the section of a role, each with its key.
func (b *builder) sentences(s *config.Section, err error) (all []string) {
	p := problems{root: b.root}
	p.add(s, "", err)
	_ = p.errs.Sorted()
	for _, e := range p.errs {
		text := e.Msg
		if e.Key != "" {
			text = e.Key + ": " + text
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// Lacks says of a plan that is ToWork which roles cannot act here, and what is missing
// for each.
func (p *Plan) Lacks() map[string][]string { return maps.Clone(p.lacks) }

// atHome is the folder of a copy in which files stand as they do here.
const atHome = "files"

// nameIn is the name, in a copy, of what stands at an absolute path here.
func nameIn(path string) string {
	return stdpath.Join(atHome, filepath.ToSlash(path))
}

// Contents are what another process needs to act for a run of the plan: its config,
// and the files that it names but for the dataset and what stays here; withheld are the
// keys of secrets that stand in the config itself, which are left out. The error says
// what cannot be done by other processes. A plan that is ToWork has no Contents.
func (p *Plan) Contents() (c bundle.Contents, withheld []string, err error) {
	return p.contents(&mover{edits: map[string]any{"name": p.name}, seen: map[string]bool{}})
}

func (p *Plan) contents(m *mover) (c bundle.Contents, withheld []string, err error) {
	for _, place := range p.tree.Places() {
		if err := m.place(place); err != nil {
			return c, nil, err
		}
	}
	for _, command := range p.needs.commands {
		if err := m.command(command); err != nil {
			return c, nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.needs.functions)) {
		f := p.needs.functions[key]
		info, err := os.Stat(f.file)
		if err != nil {
			return c, nil, fmt.Errorf("%s: %w", key, err)
		}
		m.file(key, f.file, info)
		m.edits[key] = nameIn(f.file) + ":" + f.function
	}
	for key, path := range p.needs.pythons {
		m.edits[key] = path
	}
	for _, name := range slices.Sorted(maps.Keys(p.needs.served)) {
		if m.rows != nil {
			break // of another machine
		}
		if err := m.served(p.tree.File(), name, p.needs.served[name]); err != nil {
			return c, nil, err
		}
	}
	for _, f := range m.files {
		if strings.Contains(f.Name, `\`) {
			return c, nil, fmt.Errorf("%s: %s has a backslash in its name, and no such file is sent to workers: rename it", f.Key, f.Path)
		}
	}
	c.Files, c.Folders, c.Images = m.files, m.folders, p.needs.images
	c.Config, withheld, err = p.tree.Portable(m.edits)
	return c, withheld, err
}

// MaxRows is how many bytes of rows Plan.Sent sends in all.
const MaxRows = 64 << 20

// Sent says of a plan that is ToSend what a head elsewhere needs for its run: what
// Contents says, and rows (of the dataset, the pool and unique.against) as far as they are files
// here of MaxRows bytes in all. told says what of it is not sent, and has to be there. Steps are left to
// workers, but of a run that draws from a pool, which its head has.
func (p *Plan) Sent(run *spec.Run) (c bundle.Contents, told []string, err error) {
	m := mover{edits: map[string]any{
		"name": p.name, "out": nil, "display": "plain", "cluster": map[string]any{"no_work": p.Pool == nil},
	}, seen: map[string]bool{}, rows: map[string]bool{}}
	for name, s := range p.needs.served {
		if isNull(s.Get("base_url")) && isNull(s.Get("endpoints")) {
			return c, nil, fmt.Errorf("models.%s.serve: servers that this machine starts are not those of a cluster: give base_url or endpoints that its workers reach", name)
		}
		m.edits[config.Join(s.Path(), "serve")] = nil
	}
	var rows int64
	for _, place := range p.tree.Places() {
		if !rowsKey.MatchString(place.Key) {
			continue
		}
		size, found := sizeAt(place.Path)
		switch {
		case place.Path == dataset.Stdin:
			return c, nil, errors.New("dataset.path: standard input is not sent: write it to a file")
		case !filepath.IsAbs(place.Path): // a URL
		case found && rows+size <= MaxRows && !(run.Dataset.Follow && strings.HasPrefix(place.Key, "dataset.")):
			rows += size
			m.rows[place.Key] = true
		default:
			why := "is not here"
			if run.Dataset.Follow {
				why = "grows (dataset.follow)"
			} else if found {
				why = fmt.Sprintf("has %s, more than the %s of rows that are sent", bundle.MiB(size), bundle.MiB(MaxRows))
			}
			told = append(told, fmt.Sprintf("%s: %s %s: the head reads it at the same path on its own machine", place.Key, place.Path, why))
		}
	}
	for _, key := range []string{"from.run", "reuse"} {
		if p.tree.Root().Get(key) != nil {
			told = append(told, key+": the folder is not sent: the head reads it at the same path on its own machine")
		}
	}
	for _, dir := range p.needs.images {
		told = append(told, fmt.Sprintf("images in %s are not sent: the head reads them at the same path on its own machine", dir))
	}
	c, withheld, err := p.contents(&m)
	if err == nil && len(withheld) > 0 {
		err = fmt.Errorf("%s: a secret that is written in the config is not sent: write ${env:NAME} in its place, and set NAME where the workers run", strings.Join(withheld, ", "))
	}
	c.Images = nil
	return c, told, err
}

// rowsKey matches the keys of files with rows.
var rowsKey = regexp.MustCompile(`^(dataset\.path|pool\.seeds|unique\.against)(\.\d+)?$`)

// sizeAt is how many bytes stand at a path or a glob, and whether there is anything.
func sizeAt(path string) (size int64, found bool) {
	paths := []string{path}
	if _, err := os.Stat(path); err != nil {
		paths, _ = filepath.Glob(path) // a pattern that is none finds nothing
	}
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			size += info.Size()
			found = true
		}
	}
	return size, found
}

// mover finds the files of a config, and says what it names in a copy.
type mover struct {
	rows    map[string]bool // keys of rows that go along; nil where none do, and what changes is mirrored
	edits   map[string]any
	files   []bundle.File
	folders []string
	seen    map[string]bool
}

// endpointsFile matches the key of a file with addresses, which changes.
var endpointsFile = regexp.MustCompile(`^models\..+\.endpoints\.(\d+\.)?file$`)

// place takes what a path of the config names, where it is to go along.
func (m *mover) place(p config.Place) error {
	switch {
	case !filepath.IsAbs(p.Path):
		return nil
	case endpointsFile.MatchString(p.Key) && m.rows == nil:
		m.mirror(p.Key, p.Path)
	case endpointsFile.MatchString(p.Key), p.Here && !m.rows[p.Key]:
		return nil
	default:
		found, err := m.all(p.Key, p.Path)
		if err != nil || !found {
			return err
		}
	}
	m.edits[p.Key] = nameIn(p.Path)
	return nil
}

func (m *mover) mirror(key, path string) {
	if !m.seen[path] {
		m.seen[path] = true
		m.files = append(m.files, bundle.File{Name: nameIn(path), Path: path, Key: key, Mirrored: true})
	}
}

// all takes the file at path, all files in a folder, or all that a glob matches.
func (m *mover) all(key, path string) (found bool, err error) {
	paths := []string{path}
	if _, err := os.Stat(path); err != nil {
		if paths, err = filepath.Glob(path); err != nil || len(paths) == 0 {
			return false, nil //nolint:nilerr // a path that nothing is at yet: who writes there finds its place
		}
	}
	for _, p := range paths {
		info, err := os.Stat(p)
		switch {
		case err != nil:
			return true, fmt.Errorf("%s: %w", key, err)
		case info.IsDir():
			if err := m.folder(key, p); err != nil {
				return true, err
			}
		default:
			m.file(key, p, info)
		}
	}
	return true, nil
}

func (m *mover) folder(key, dir string) error {
	m.folders = append(m.folders, nameIn(dir))
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() {
			m.file(key, path, info)
		}
		return nil
	})
}

func (m *mover) file(key, path string, info fs.FileInfo) {
	path = filepath.Clean(path)
	if m.seen[path] || !info.Mode().IsRegular() {
		return
	}
	m.seen[path] = true
	m.files = append(m.files, bundle.File{Name: nameIn(path), Path: path, Key: key, Exec: info.Mode()&0o111 != 0})
}

// command takes the scripts that a program is started with: files that its arguments
// name. The program itself goes along where it stands in the folder that it runs in,
// or is among the files of the command.
func (m *mover) command(c neededCommand) error {
	dir, err := filepath.Abs(c.config.Dir) // that of matrix itself where it has none
	if err != nil {
		return err
	}
	m.folders = append(m.folders, nameIn(dir))
	m.edits[config.Join(c.key, "dir")] = nameIn(dir)
	for i, arg := range c.config.Run {
		key := fmt.Sprintf("%s.run.%d", c.key, i)
		flag, path := "", arg
		if at := strings.IndexByte(arg, '='); i > 0 && at > 0 && strings.HasPrefix(arg, "-") {
			flag, path = arg[:at+1], arg[at+1:]
		}
		full := pathFrom(dir, path)
		if i == 0 {
			if !strings.ContainsRune(path, filepath.Separator) {
				continue // found by PATH
			}
			if !inside(dir, full) && !m.seen[full] { // an interpreter: where it is, it has to be everywhere
				m.edits[key] = full
				continue
			}
		}
		info, err := os.Stat(full)
		if path == "" || err != nil || !info.Mode().IsRegular() || info.Size() > bundle.MaxSent {
			continue
		}
		m.file(key, full, info)
		if !filepath.IsLocal(path) {
			rel, err := filepath.Rel(dir, full)
			if err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			if i == 0 && !strings.ContainsRune(rel, filepath.Separator) {
				rel = "./" + rel
			}
			m.edits[key] = flag + rel
		}
	}
	return nil
}

// pathFrom is what a program that runs in dir finds at path. Where path leads out of
// dir, it does so from where dir really is: a copy has no links on its way.
func pathFrom(dir, path string) string {
	switch {
	case filepath.IsAbs(path):
		return filepath.Clean(path)
	case filepath.IsLocal(path):
		return filepath.Join(dir, path)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	return filepath.Join(dir, path)
}

// inside reports whether a program stands in dir, and is not a link to one elsewhere.
func inside(dir, path string) bool {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// served has a model be where its servers are, which are started here.
func (m *mover) served(file, name string, s *config.Section) error {
	m.edits[config.Join(s.Path(), "serve")] = nil
	if !isNull(s.Get("base_url")) || !isNull(s.Get("endpoints")) {
		return nil
	}
	state, err := launch.StateOf(file)
	if err != nil {
		return err
	}
	path := state.Endpoints(name)
	m.mirror(config.Join(s.Path(), "serve"), path)
	m.edits[config.Join(s.Path(), "endpoints")] = []map[string]any{{"file": nameIn(path), "every": "1s"}}
	return nil
}

func isNull(s *config.Section) bool { return s == nil || s.Kind() == config.Null }
