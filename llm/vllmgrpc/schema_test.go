package vllmgrpc

import (
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// schema is what is used here of
// https://github.com/vllm-project/vllm/blob/main/rust/proto/inference.proto and
// https://github.com/vllm-project/vllm/blob/main/rust/proto/control.proto:
// messages, each with its fields as number, type and name. ? is optional, and *
// repeated.
const schema = `
GenerateRequest: 1 string request_id, 2 string model, 3 string text, 5 ?float temperature, 6 RandomSampling sampling,
 7 DecodingParameters decoding, 8 StoppingCriteria stopping, 9 ResponseOptions response, 10 KVCacheParameters kv,
 11 uint32 truncate_prompt_tokens, 12 int32 priority, 13 ?string session_id, 15 string lora_name
RandomSampling: 1 uint32 num_sequences, 2 uint32 top_k, 3 float top_p, 4 float min_p, 5 ?int64 seed
DecodingParameters: 1 float presence_penalty, 2 float frequency_penalty, 3 float repetition_penalty, 4 *Bias logit_bias,
 5 *uint32 allowed_token_ids, 6 ?string json, 7 ?string regex, 8 StringChoices choice, 9 ?string grammar, 10 ?bool json_object
Bias: 1 uint32 key, 2 float value
StringChoices: 1 *string choices
StoppingCriteria: 1 uint32 max_new_tokens, 2 uint32 min_new_tokens, 3 *uint32 stop_token_ids, 4 *string stop_strings,
 5 bool include_stop_strings, 6 bool ignore_eos
ResponseOptions: 4 ?bool output_text, 5 bool output_token_ids, 6 bool output_logprobs, 7 CandidateTokens output_candidates, 8 ?bool skip_special_tokens
CandidateTokens: 1 uint32 top_n
KVCacheParameters: 1 bool bypass_prefix_cache, 2 string cache_salt
GenerateResponse: 1 PromptInfo prompt_info, 2 SequenceOutput outputs
PromptInfo: 1 uint32 num_prompt_tokens, 2 *uint32 token_ids
SequenceOutput: 1 uint32 index, 2 string text, 3 uint32 num_tokens, 4 *uint32 token_ids, 5 *float logprobs, 6 *uint32 ranks,
 7 *CandidateTokenInfo candidate_tokens, 8 FinishInfo finish_info
CandidateTokenInfo: 1 *TokenInfo tokens
TokenInfo: 1 uint32 id, 2 float logprob, 3 uint32 rank
FinishInfo: 1 uint32 num_output_tokens, 2 uint32 finish_reason, 4 uint32 eos_token_id
AbortRequest: 1 *string request_ids
AbortResponse:
ModelInfo: 1 string model_id, 2 string served_model_name, 3 *string served_model_aliases, 20 bool supports_text_input
ServerInfo: 1 string engine_version, 5 uint32 max_model_len, 6 uint32 kv_block_size
HealthCheckResponse: 1 uint32 status
`

var kinds = map[string]descriptorpb.FieldDescriptorProto_Type{
	"string": descriptorpb.FieldDescriptorProto_TYPE_STRING, "uint32": descriptorpb.FieldDescriptorProto_TYPE_UINT32,
	"int32": descriptorpb.FieldDescriptorProto_TYPE_INT32, "int64": descriptorpb.FieldDescriptorProto_TYPE_INT64,
	"float": descriptorpb.FieldDescriptorProto_TYPE_FLOAT, "bool": descriptorpb.FieldDescriptorProto_TYPE_BOOL,
}

// compile makes descriptors of the schema, so that the fake reads and writes
// messages by protobuf's own code.
func compile(text string) protoreflect.FileDescriptor {
	file := &descriptorpb.FileDescriptorProto{Name: new("vllm.proto"), Package: new("vllm"), Syntax: new("proto3")}
	for _, def := range strings.Split(strings.ReplaceAll(strings.TrimSpace(text), "\n ", " "), "\n") {
		name, list, _ := strings.Cut(def, ":")
		m := &descriptorpb.DescriptorProto{Name: &name}
		for _, f := range strings.Split(list, ",") {
			if strings.TrimSpace(f) == "" {
				continue
			}
			parts := strings.Fields(f)
			number := int32(0)
			for _, digit := range parts[0] {
				number = 10*number + digit - '0'
			}
			d := &descriptorpb.FieldDescriptorProto{Name: &parts[2], Number: &number, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
			typ := strings.TrimLeft(parts[1], "?*")
			switch parts[1][0] {
			case '*':
				d.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
			case '?':
				d.Proto3Optional = new(true)
				d.OneofIndex = new(int32(len(m.OneofDecl)))
				m.OneofDecl = append(m.OneofDecl, &descriptorpb.OneofDescriptorProto{Name: new("_" + parts[2])})
			}
			if k, ok := kinds[typ]; ok {
				d.Type = k.Enum()
			} else {
				d.Type, d.TypeName = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), new(".vllm."+typ)
			}
			m.Field = append(m.Field, d)
		}
		file.MessageType = append(file.MessageType, m)
	}
	fd, err := protodesc.NewFile(file, &protoregistry.Files{})
	if err != nil {
		panic(err)
	}
	return fd
}

// msg is a message of the schema.
func msg(fd protoreflect.FileDescriptor, name protoreflect.Name) *dynamicpb.Message {
	return dynamicpb.NewMessage(fd.Messages().ByName(name))
}

// textOf is a message in protobuf's text format, on one line.
func textOf(m protoreflect.Message) string {
	return prototext.MarshalOptions{}.Format(m.Interface())
}
