package rundir

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"

	"matrix/config"
	"matrix/dataset"
)

// Origin is where a reply came from.
type Origin struct {
	Model    string `json:"model"`    // as the service called itself
	Endpoint string `json:"endpoint"` // its address
}

// Answered is the origin of the first reply of a model that the outputs have, as
// far as they can be read; its fields are empty where there is none.
func (o *Claim) Answered(model string) (r Origin) {
	const most = 1000 // tasks that are looked at
	enough := errors.New("enough")
	for _, dir := range []string{DataDir, FailedDir} {
		n := 0
		// What a killed process left torn ends the search; whether it is a fault, the run tells.
		_ = dataset.ReadParts(filepath.Join(o.Path, dir), func(_, _ int, line []byte) error {
			var t struct {
				Turns []struct {
					Call *struct {
						Origin
						Name string `json:"name"`
					} `json:"call"`
				} `json:"turns"`
			}
			if n++; n > most || json.Unmarshal(line, &t) != nil {
				return enough
			}
			for _, x := range t.Turns {
				if x.Call != nil && x.Call.Name == model && x.Call.Model != "" {
					r = x.Call.Origin
					return enough
				}
			}
			return nil
		})
		if r.Model != "" {
			break
		}
	}
	return r
}

// named reports whether key is the name of a model that was not named before, and
// is now as its service called itself.
func (o *Claim) named(key string, before, now *config.Tree) bool {
	path, ok := strings.CutSuffix(key, ".model")
	name, isModel := strings.CutPrefix(path, "models.")
	if !ok || !isModel || before.Root().Get(path).Text("model") != "" {
		return false
	}
	was := o.Answered(name)
	return was.Model != "" && was.Model == now.Root().Get(path).Text("model")
}
