package api

import (
	"encoding/json"
	"strconv"

	"matrix/internal/jsontext"
	"matrix/llm"
)

// modelEntry is an entry of the list of models, as servers write it.
type modelEntry struct {
	ID      string `json:"id"`
	OwnedBy text   `json:"owned_by"`
	Len     int    `json:"max_model_len"`  // vLLM, SGLang
	Length  int    `json:"context_length"` // OpenRouter
	Window  int    `json:"context_window"` // Groq
	Meta    struct {
		Train int `json:"n_ctx_train"`
		Ctx   int `json:"n_ctx"`
	} `json:"meta"` // llama.cpp
}

// text is a string; what is none counts as empty.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	return nil
}

func (m *modelEntry) context() int {
	for _, n := range []int{m.Len, m.Length, m.Window, m.Meta.Ctx, m.Meta.Train} {
		if n > 0 {
			return n
		}
	}
	return 0
}

// ReadModels reads a list of models; false: it is none.
func ReadModels(body []byte) ([]llm.Served, bool) {
	var list struct {
		Data *[]modelEntry `json:"data"`
	}
	if json.Unmarshal(body, &list) != nil || list.Data == nil {
		return nil, false
	}
	served := make([]llm.Served, len(*list.Data))
	for i := range *list.Data {
		m := &(*list.Data)[i]
		served[i] = llm.Served{Name: llm.Shorten(m.ID, 200), Owner: string(m.OwnedBy), Context: m.context()}
	}
	return served, true
}

// AppendModels appends the list of models, as vLLM writes it. created is in
// seconds.
func AppendModels(b []byte, served []llm.Served, created int64) []byte {
	b = append(b, `{"object":"list","data":[`...)
	for i := range served {
		b = AppendModel(jsontext.Separate(b, i), &served[i], created)
	}
	return append(b, ']', '}')
}

// AppendModel appends an entry of the list of models.
func AppendModel(b []byte, m *llm.Served, created int64) []byte {
	b = jsontext.AppendString(append(b, `{"id":`...), m.Name)
	b = strconv.AppendInt(append(b, `,"object":"model","created":`...), created, 10)
	b = jsontext.AppendString(append(b, `,"owned_by":`...), m.Owner)
	if m.Context > 0 {
		b = strconv.AppendInt(append(b, `,"max_model_len":`...), int64(m.Context), 10)
	}
	return append(b, '}')
}
