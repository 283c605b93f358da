package registry

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"matrix/internal/export"
	"matrix/lang"
	"matrix/spec"
)

// ManyAskers says that it must be chosen whose replies are learnt.
type ManyAskers struct{ Roles []string }

func (e *ManyAskers) Error() string {
	return "several roles ask a model: " + strings.Join(e.Roles, ", ") + ". Say whose replies are to be learnt; all others are the user then"
}

// exportOf is the training set that the config of a run asks for; nil where it asks for
// none.
func exportOf(c *spec.Run) (*export.Options, error) {
	x := &c.Output.Export
	if x.Format == "" {
		if x.Where != "" || x.Score != "" || x.Label != "" || x.Sort != "" || x.Assistant != "" || len(x.Columns)+len(x.Split) > 0 {
			return nil, &lang.FieldError{Field: "output.export.format", Err: errors.New("what a row holds is missing, such as format: messages")}
		}
		return nil, nil //nolint:nilnil // as the contract says
	}
	o := &export.Options{
		Ending: "." + x.As, Format: export.Format(x.Format), Role: x.Assistant, UserFirst: x.UserFirst, Tools: export.ToolsAs(x.Tools), Score: x.Score, MinMargin: x.MinMargin, Label: x.Label,
		Where: x.Where, Sort: x.Sort, Shuffle: x.Shuffle, Seed: x.Seed,
	}
	for _, name := range slices.Sorted(maps.Keys(x.Columns)) {
		o.Columns = append(o.Columns, export.Column{Name: name, Expr: x.Columns[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(x.Split)) {
		o.Splits = append(o.Splits, export.Split{Name: name, Share: x.Split[name]})
	}
	err := ExportOf(c, o, "")
	if err == nil {
		_, err = export.NewParts(*o)
	}
	if err != nil {
		field := "output.export"
		if many := (*ManyAskers)(nil); errors.As(err, &many) {
			field += ".assistant"
		}
		return nil, &lang.FieldError{Field: field, Err: err}
	}
	return o, nil
}

// ExportOf fills in what the config of a run says for its training set: params, and
// whose replies are learnt, where the format has some. dir is where the run's pools
// keep what they had.
func ExportOf(c *spec.Run, o *export.Options, dir string) (err error) {
	o.Params = lang.Params(c.Params)
	if !o.Format.Asks() {
		if o.Role != "" {
			return &export.UsageError{Err: errors.New("assistant says whose replies are learnt, and " + string(o.Format) + " has none")}
		}
		return nil
	}
	roles := Askers(c)
	switch {
	case len(roles) == 0:
		return &export.UsageError{Err: errors.New("no role of this run asks a model for text, and " + string(o.Format) + " holds what one was asked and replied: take the format columns")}
	case o.Role == "" && len(roles) > 1:
		return &ManyAskers{roles}
	case o.Role == "":
		o.Role = roles[0]
	}
	if !slices.Contains(roles, o.Role) {
		return &export.UsageError{Err: unknown("role", o.Role, roles)}
	}
	o.Asker, o.Leases, err = Asker(c, o.Role, dir)
	return err
}
