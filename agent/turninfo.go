package agent

import (
	"cmp"
	"encoding/json"
	"regexp"

	"matrix/internal/jsonschema"
	"matrix/lang"
)

// TurnInfo is what is known before a run of the turns that an agent makes.
type TurnInfo struct {
	Text   bool   // they may have a text
	Data   *Shape // nil: any data
	Schema any    // JSON Schema of the data, decoded; nil: none
	Why    string // there is no data, where Data has no fields: "it has no parse"
	Same   bool   // what is asked of a model is the same for every task
	Sole   string // the only option that replies are read for; empty: there are more, or none

	Replies []string // it acts only after a turn of one of these roles; nil: also without
}

// Shape is what is known of a value. A nil Shape is any value.
type Shape struct {
	Fields map[string]*Shape // of an object; "#" is an element of a list
	Closed bool              // it has no other fields
	Values []string          // the texts that it may be; nil: it may be anything
}

// TurnDescriber is an agent that knows what its turns are like.
type TurnDescriber interface {
	TurnInfo() TurnInfo
}

var _, _, _, _, _ TurnDescriber = (*chat)(nil), (*complete)(nil), (*request)(nil), (*embed)(nil), (*compute)(nil)

// shape is what the reader makes of replies.
func (p Parse) shape() (data *Shape, why string) {
	one := func(otherwise string, of *Shape) *Shape {
		return &Shape{Fields: map[string]*Shape{cmp.Or(p.Field, otherwise): of}, Closed: true}
	}
	switch {
	case p.Regex != "":
		groups := &Shape{Fields: map[string]*Shape{}, Closed: true}
		if re, err := regexp.Compile(p.Regex); err == nil {
			for _, name := range re.SubexpNames() {
				if name != "" {
					groups.Fields[name] = nil
				}
			}
		}
		switch {
		case p.Count.listed() && len(groups.Fields) > 0:
			return one("answer", &Shape{Fields: map[string]*Shape{"#": groups}, Closed: true}), ""
		case len(groups.Fields) > 0:
			return groups, ""
		}
		return one("answer", nil), ""
	case len(p.Choice) > 0:
		return one("choice", &Shape{Closed: true, Values: p.Choice}), ""
	case p.Grammar != "":
		return one("answer", nil), ""
	case p.Schema != nil:
		return shapeOf(p.schema()), ""
	case p.JSON:
		return nil, ""
	}
	return &Shape{Closed: true}, "it has no parse"
}

// schema is a JSON Schema of data, decoded; nil where nothing is known.
func (p Parse) schema() (doc any) {
	if p.Schema == nil {
		data, _ := p.shape()
		if data == nil {
			return nil
		}
		texts := map[string]any{}
		for name := range data.Fields {
			texts[name] = map[string]any{"type": "string"}
		}
		return map[string]any{"properties": texts}
	}
	if raw, err := jsonschema.JSON(p.Schema); err != nil || json.Unmarshal(raw, &doc) != nil {
		return nil
	}
	return doc
}

// shapeOf is what a JSON Schema says of a value, as far as its plain words tell.
func shapeOf(schema any) *Shape {
	m, ok := schema.(map[string]any)
	if !ok {
		return nil
	}
	for _, word := range []string{"$ref", "$dynamicRef", "anyOf", "oneOf", "allOf", "not", "if", "patternProperties", "dependentSchemas"} {
		if m[word] != nil {
			return nil
		}
	}
	s := &Shape{}
	texts := func(list []any) {
		for _, v := range list {
			text, ok := v.(string)
			if !ok {
				s.Values = nil
				return
			}
			s.Values = append(s.Values, text)
		}
	}
	switch list, isList := m["enum"].([]any); {
	case isList:
		texts(list)
	case m["const"] != nil:
		texts([]any{m["const"]})
	}
	if fields, ok := m["properties"].(map[string]any); ok {
		s.Fields = map[string]*Shape{}
		for name, of := range fields {
			s.Fields[name] = shapeOf(of)
		}
		s.Closed = m["additionalProperties"] == false
	}
	if of := shapeOf(m["items"]); of != nil {
		s.Fields = map[string]*Shape{"#": of}
	}
	if s.Fields == nil && s.Values == nil {
		return nil
	}
	return s
}

// info is what the reader makes of turns with a text. same says that what is asked is
// the same for every task.
func (p Parse) info(same bool) TurnInfo {
	m := TurnInfo{Text: true, Schema: p.schema(), Same: same}
	m.Data, m.Why = p.shape()
	if len(p.Choice) == 1 {
		m.Sole = p.Choice[0]
	}
	return m
}

// TurnInfo implements TurnDescriber.
func (a *chat) TurnInfo() TurnInfo {
	m := a.config.Parse.info(len(a.config.Sees) == 0 && len(a.images.entries) == 0 && (a.tools == nil || a.tools.expr == nil))
	for _, t := range []*lang.Template{a.system, a.prompt} {
		m.Same = m.Same && (t == nil || t.Fixed())
	}
	if a.prompt == nil {
		m.Replies = a.config.Sees
	}
	return m
}

// TurnInfo implements TurnDescriber.
func (a *complete) TurnInfo() TurnInfo {
	return a.parse.info(a.prompt.Fixed())
}

// TurnInfo implements TurnDescriber. A body may say what the reply is to be parsed by.
func (a *request) TurnInfo() TurnInfo {
	m := a.parse.info(a.from.Fixed())
	if a.key == "body" && a.reader.read == nil {
		m.Data, m.Why = nil, ""
	}
	return m
}

// TurnInfo implements TurnDescriber.
func (a *embed) TurnInfo() TurnInfo {
	if a.text != nil {
		return TurnInfo{Same: a.text.Fixed(), Data: &Shape{Fields: map[string]*Shape{"vector": nil}, Closed: true}}
	}
	return TurnInfo{Same: a.texts.Fixed(), Data: &Shape{Fields: map[string]*Shape{"vectors": nil}, Closed: true}}
}

// TurnInfo implements TurnDescriber.
func (a *compute) TurnInfo() TurnInfo {
	s := &Shape{Fields: map[string]*Shape{}, Closed: true}
	for _, name := range a.names {
		s.Fields[name] = nil
	}
	return TurnInfo{Data: s}
}
