package llm

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Unsupported is the failure of a request that asks for what its service does
// not have. Nothing was sent.
func Unsupported(endpoint, what, hint string) *Failure {
	return &Failure{Kind: Refused, Endpoint: endpoint, Msg: what, Hint: hint}
}

// UnsupportedFormat is the failure of r where its service cannot hold a reply to
// the format that r asks for. Format is set by the config and is the same for every
// row, so the error is Fatal. A response_format may be that of a row, which fails
// alone.
func UnsupportedFormat(r *Request, endpoint, what, hint string) *Failure {
	f := Unsupported(endpoint, what, hint)
	if r.Format != nil {
		f.Kind = Fatal
	}
	return f
}

// Wanted returns what the reply to r must look like, for drivers of services that
// do not speak the OpenAI API: Format, or what response_format says; nil for
// any text. An error is a *FieldError.
func Wanted(r *Request) (*Format, error) {
	if r.Format != nil || r.Sampling.ResponseFormat == nil {
		return r.Format, nil
	}
	return FormatOf(r.Sampling.ResponseFormat)
}

// FormatOf reads a response_format of the OpenAI API; nil is any text. An error
// is a *FieldError: what is not of type text, json_object or json_schema, or
// has no schema.
func FormatOf(responseFormat any) (*Format, error) {
	raw, err := json.Marshal(responseFormat)
	if err != nil {
		return nil, &FieldError{Field: "response_format", Err: err}
	}
	var f struct {
		Type   string `json:"type"`
		Schema struct {
			Name   string          `json:"name"`
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	}
	_ = json.Unmarshal(raw, &f) // what does not fit is not known
	switch f.Type {
	case "text":
		return nil, nil
	case "json_object":
		return &Format{JSON: true}, nil
	case "json_schema":
		if s := string(f.Schema.Schema); s == "" || s == "null" {
			return nil, &FieldError{Field: "response_format", Err: errors.New("it has no json_schema.schema")}
		}
		return &Format{Schema: f.Schema.Schema, Name: f.Schema.Name}, nil
	}
	return nil, &FieldError{Field: "response_format", Err: fmt.Errorf("%s is not supported by this service; want {type: json_schema, json_schema: {schema: ...}}", Shorten(string(raw), 100))}
}
