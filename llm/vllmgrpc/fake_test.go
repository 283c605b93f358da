package vllmgrpc

import (
	"encoding/json"
	"errors"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"matrix/llm"
	"matrix/matrixtest"
)

const (
	model = "meta-llama/Llama-3.1-8B-Instruct"
	token = "tk-0123456789abcdef"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bytesCodec leaves messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// fake is vLLM's gRPC port: a real gRPC server.
type fake struct {
	t      testing.TB
	fd     protoreflect.FileDescriptor
	answer func(matrixtest.Call) matrixtest.Answer
	server *grpc.Server
	lacks  []string // methods, or services, that this server does not know
	health int      // status of the health service

	mu     sync.Mutex
	ids    []string // of generations
	aborts []string // requests aborted
	seen   chan string
}

func start(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
	_, at := serve(t, &fake{answer: answer})
	return open(t, Config{}, at)
}

func serve(t testing.TB, f *fake) (*fake, string) {
	t.Helper()
	f.t, f.fd, f.seen = t, compile(schema), make(chan string, 64)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(f.handle))
	f.server = s
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return f, "http://" + l.Addr().String()
}

func open(t testing.TB, c Config, at string) llm.Driver {
	t.Helper()
	c.Model, c.APIKey = model, token
	if c.Template == "" {
		c.Template = "chatml"
	}
	w, err := c.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (f *fake) lacking(method string) bool {
	return slices.ContainsFunc(f.lacks, func(s string) bool { return strings.HasPrefix(method, s) })
}

func (f *fake) handle(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	if f.lacking(method) {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	var raw []byte
	if err := s.RecvMsg(&raw); err != nil {
		return err
	}
	send := func(m proto.Message) error {
		b, err := proto.Marshal(m)
		if err != nil {
			f.t.Error(err)
		}
		return s.SendMsg(&b)
	}
	switch method {
	case "/vllm.Inference/Generate", "/vllm.Inference/GenerateStream", "/vllm.Generate/Generate", "/vllm.Generate/GenerateStream":
		return f.generate(s, raw, strings.HasSuffix(method, "Stream"), send)
	case "/vllm.Control/Abort":
		in := f.read("AbortRequest", raw)
		f.mu.Lock()
		for i := range list(in, "request_ids").Len() {
			f.aborts = append(f.aborts, list(in, "request_ids").Get(i).String())
			f.seen <- list(in, "request_ids").Get(i).String()
		}
		f.mu.Unlock()
		return send(msg(f.fd, "AbortResponse"))
	case "/vllm.Control/GetModelInfo":
		a := f.answer(matrixtest.Call{Probe: true})
		out := msg(f.fd, "ModelInfo")
		for i, name := range a.Served {
			if i == 0 {
				set(out, "served_model_name", name)
				continue
			}
			l := out.Mutable(field1(out, "served_model_aliases")).List()
			l.Append(protoreflect.ValueOfString(name))
		}
		return send(out)
	case "/vllm.Control/GetServerInfo":
		out := msg(f.fd, "ServerInfo")
		set(out, "engine_version", "0.26.0")
		set(out, "max_model_len", uint32(4096))
		return send(out)
	case "/grpc.health.v1.Health/Check":
		out := msg(f.fd, "HealthCheckResponse")
		set(out, "status", uint32(f.health))
		return send(out)
	}
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

func (f *fake) read(name protoreflect.Name, raw []byte) protoreflect.Message {
	m := msg(f.fd, name)
	if err := proto.Unmarshal(raw, m); err != nil {
		f.t.Errorf("%s: %v", name, err)
	}
	f.known(m)
	return m
}

// known checks that a message has no field that the schema does not.
func (f *fake) known(m protoreflect.Message) {
	if len(m.GetUnknown()) > 0 {
		f.t.Errorf("unknown fields in %s: %x", m.Descriptor().Name(), m.GetUnknown())
	}
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if d.Kind() == protoreflect.MessageKind && !d.IsList() {
			f.known(v.Message())
		}
		return true
	})
}

func field1(m protoreflect.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

func list(m protoreflect.Message, name protoreflect.Name) protoreflect.List {
	return m.Get(field1(m, name)).List()
}

func set(m protoreflect.Message, name protoreflect.Name, v any) {
	m.Set(field1(m, name), protoreflect.ValueOf(v))
}

// turns takes a chat apart that was written by chatml.
var turns = regexp.MustCompile(`(?s)<\|im_start\|>(system|user|assistant)\n(.*?)<\|im_end\|>\n`)

func (f *fake) call(s grpc.ServerStream, in protoreflect.Message) matrixtest.Call {
	var c matrixtest.Call
	get := func(m protoreflect.Message, name protoreflect.Name) protoreflect.Value { return m.Get(field1(m, name)) }
	part := func(name protoreflect.Name) protoreflect.Message { return get(in, name).Message() }
	float := func(m protoreflect.Message, name protoreflect.Name) *float64 {
		if !m.Has(field1(m, name)) {
			return nil
		}
		v, err := strconv.ParseFloat(strconv.FormatFloat(get(m, name).Float(), 'g', -1, 32), 64) // what was meant
		if err != nil {
			f.t.Error(err)
		}
		return &v
	}
	text := get(in, "text").String()
	if chat, ok := strings.CutSuffix(text, "<|im_start|>assistant\n"); ok {
		for _, t := range turns.FindAllStringSubmatch(chat, -1) {
			c.Messages = append(c.Messages, llm.Message{Role: t[1], Content: t[2]})
		}
	} else {
		c.Prompt = text
	}
	c.Model, c.Key = get(in, "model").String(), get(in, "request_id").String()
	sampling, decoding, stopping, response := part("sampling"), part("decoding"), part("stopping"), part("response")
	c.Sampling.Temperature = float(in, "temperature")
	c.Sampling.TopP = float(sampling, "top_p")
	if sampling.Has(field1(sampling, "seed")) {
		seed := get(sampling, "seed").Int()
		c.Sampling.Seed = &seed
	}
	c.Sampling.N = int(get(sampling, "num_sequences").Uint())
	c.Sampling.PresencePenalty, c.Sampling.FrequencyPenalty = float(decoding, "presence_penalty"), float(decoding, "frequency_penalty")
	c.Sampling.MaxTokens = int(get(stopping, "max_new_tokens").Uint())
	for i := range list(stopping, "stop_strings").Len() {
		if s := list(stopping, "stop_strings").Get(i).String(); s != "<|im_end|>" {
			c.Sampling.Stop = append(c.Sampling.Stop, s)
		}
	}
	if get(response, "output_logprobs").Bool() {
		c.Sampling.Logprobs = int(get(get(response, "output_candidates").Message(), "top_n").Uint())
	}
	for name, into := range map[protoreflect.Name]func(v protoreflect.Value) *llm.Format{
		"json":        func(v protoreflect.Value) *llm.Format { return &llm.Format{Schema: json.RawMessage(v.String())} },
		"regex":       func(v protoreflect.Value) *llm.Format { return &llm.Format{Regex: v.String()} },
		"grammar":     func(v protoreflect.Value) *llm.Format { return &llm.Format{Grammar: v.String()} },
		"json_object": func(v protoreflect.Value) *llm.Format { return &llm.Format{JSON: v.Bool()} },
		"choice": func(v protoreflect.Value) *llm.Format {
			out := &llm.Format{}
			for i := range list(v.Message(), "choices").Len() {
				out.Choice = append(out.Choice, list(v.Message(), "choices").Get(i).String())
			}
			return out
		},
	} {
		if decoding.Has(field1(decoding, name)) {
			c.Format = into(get(decoding, name))
		}
	}
	md, _ := metadata.FromIncomingContext(s.Context())
	c.Known = slices.Equal(md.Get("authorization"), []string{"Bearer " + token})
	return c
}

// errorOf is a complaint as a status: its name is the code, its body the message.
func errorOf(c *matrixtest.Complaint) error {
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(`"` + c.Code + `"`)); err != nil {
		panic(err)
	}
	return status.Error(code, strings.ReplaceAll(c.Body, "{secret}", token))
}

func (f *fake) generate(s grpc.ServerStream, raw []byte, stream bool, send func(proto.Message) error) error {
	in := f.read("GenerateRequest", raw)
	c := f.call(s, in)
	c.Stream = stream
	f.mu.Lock()
	f.ids = append(f.ids, c.Key)
	f.mu.Unlock()
	a := f.answer(c)
	if a.Complaint != nil && a.Fault != matrixtest.Break {
		return errorOf(a.Complaint)
	}
	if a.Fault == matrixtest.Empty {
		return nil
	}
	k := &a.Reply.Choices[0]
	finish := map[string]uint32{"stop": 2, "length": 1, "ABORTED": 3, "NOT_FINISHED": 0}[k.Finish]
	piece := func(text string, last bool) proto.Message {
		out := msg(f.fd, "GenerateResponse")
		o := out.Mutable(field1(out, "outputs")).Message()
		set(o, "text", text)
		if c.Sampling.Logprobs > 0 {
			list(o, "token_ids")
			o.Mutable(field1(o, "token_ids")).List().Append(protoreflect.ValueOfUint32(7))
			o.Mutable(field1(o, "logprobs")).List().Append(protoreflect.ValueOfFloat32(-0.5))
			others := o.Mutable(field1(o, "candidate_tokens")).List().AppendMutable().Message()
			one := others.Mutable(field1(others, "tokens")).List().AppendMutable().Message()
			set(one, "id", uint32(9))
			set(one, "logprob", float32(-1.5))
			set(one, "rank", uint32(2))
		}
		if last {
			end := o.Mutable(field1(o, "finish_info")).Message()
			set(end, "num_output_tokens", uint32(a.Reply.Usage.CompletionTokens))
			set(end, "finish_reason", finish)
		}
		return out
	}
	prompted := func(m proto.Message) proto.Message {
		r := m.ProtoReflect()
		p := r.Mutable(field1(r, "prompt_info")).Message()
		set(p, "num_prompt_tokens", uint32(a.Reply.Usage.PromptTokens))
		return m
	}
	if !stream {
		if a.Fault == matrixtest.Hang {
			<-s.Context().Done()
			return s.Context().Err()
		}
		return send(prompted(piece(k.Text, true)))
	}
	if err := send(prompted(msg(f.fd, "GenerateResponse"))); err != nil {
		return err
	}
	parts := matrixtest.Pieces(k.Text)
	for i, p := range parts {
		if i == (len(parts)+1)/2 {
			switch a.Fault {
			case matrixtest.Hang:
				<-s.Context().Done()
				return s.Context().Err()
			case matrixtest.Short:
				return nil
			case matrixtest.Break:
				return errorOf(a.Complaint)
			case matrixtest.CutOff:
				f.t.Error("a gRPC server cannot cut a reply off")
			}
		}
		if err := send(piece(p, i == len(parts)-1)); err != nil {
			return err
		}
	}
	return nil
}
