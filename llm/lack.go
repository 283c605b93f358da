package llm

import (
	"encoding/json"
	"fmt"
)

// Lack is the failure of a request that asks for what its service does not
// have. Nothing was sent.
func Lack(endpoint, what, hint string) *Failure {
	return &Failure{Kind: Refused, Endpoint: endpoint, Msg: what, Hint: hint}
}

// LackFormat is the failure of r where its service cannot hold a reply to the
// format that r asks for. A Format is the config's, so that no row would fare
// better: Fatal. A response_format may be that of a row, which fails alone.
func LackFormat(r *Request, endpoint, what, hint string) *Failure {
	f := Lack(endpoint, what, hint)
	if r.Format != nil {
		f.Kind = Fatal
	}
	return f
}

// Wanted returns what the reply to r must look like, for wires of services that
// do not speak the OpenAI API: Format, or what response_format says; nil for
// any text.
func Wanted(r *Request) (*Format, error) {
	if r.Format != nil || r.Sampling.ResponseFormat == nil {
		return r.Format, nil
	}
	raw, err := json.Marshal(r.Sampling.ResponseFormat)
	if err != nil {
		return nil, &FieldError{"response_format", err}
	}
	var f struct {
		Type   string `json:"type"`
		Schema struct {
			Name   string          `json:"name"`
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	}
	_ = json.Unmarshal(raw, &f) // what does not fit is not known
	switch {
	case f.Type == "text":
		return nil, nil
	case f.Type == "json_object":
		return &Format{JSON: true}, nil
	case f.Type == "json_schema" && len(f.Schema.Schema) > 0:
		return &Format{Schema: f.Schema.Schema, Name: f.Schema.Name}, nil
	}
	return nil, &FieldError{"response_format", fmt.Errorf("%s cannot be said to this service; want {type: json_schema, json_schema: {schema: ...}}", Shorten(string(raw), 100))}
}
