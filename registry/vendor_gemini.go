package registry

import (
	"matrix/llm"
	"matrix/llm/gemini"
)

func vendorGemini(r *Registry) {
	Model(r, "gemini", geminiModel, Doc("Google's Gemini models, by the Gemini API, or by Vertex AI with vertex: true."))
	Model(r, "vertex", vertexModel, Doc("Google's Gemini models by Vertex AI: gemini with vertex: true."))
}

func geminiModel(b Build, c gemini.Config) (llm.Model, error) {
	if err := elsewhere(b, c.BaseURL); err != nil {
		return nil, err
	}
	c.Named = c.Model
	return llm.New(b.Name, c.Service, c.Where(), c.Open)
}

func vertexModel(b Build, c gemini.Config) (llm.Model, error) {
	c.Vertex = true
	return geminiModel(b, c)
}
