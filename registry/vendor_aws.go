package registry

import (
	"matrix/llm"
	"matrix/llm/bedrock"
	"matrix/llm/sagemaker"
)

func vendorAWS(r *Registry) {
	Model(r, "bedrock", bedrockModel, Doc("Any model of Amazon Bedrock, by its Converse API, with credentials as AWS's own tools find them."))
	Model(r, "sagemaker", sageMakerModel, Doc("An Amazon SageMaker endpoint whose container speaks the OpenAI schema (LMI, vLLM, TGI), with credentials as AWS's own tools find them."))
}

func bedrockModel(b Build, c bedrock.Config) (llm.Model, error) {
	if err := elsewhere(b, c.BaseURL); err != nil {
		return nil, err
	}
	at, err := c.Where()
	if err != nil {
		return nil, err
	}
	c.Named = c.Model
	return llm.New(b.Name, c.Service, at, c.Open)
}

func sageMakerModel(b Build, c sagemaker.Config) (llm.Model, error) {
	if err := elsewhere(b, c.BaseURL); err != nil {
		return nil, err
	}
	at, err := c.Where()
	if err != nil {
		return nil, err
	}
	c.Named = c.Model
	return llm.New(b.Name, c.Service, at, c.Open)
}
