// Package openai carries calls to servers that speak the OpenAI API: chat
// completions, completions and embeddings, whole or streamed. It knows what
// vLLM, SGLang, llama.cpp, Ollama and TensorRT-LLM add to it.
//
// It makes one try at one address and judges what came back. It knows nothing
// of waiting, retrying and balancing: package llm's Client does that.
package openai
