package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"matrix/llm"
)

// quick is a service that answers within milliseconds.
var quick = Config{Preset: "slots", Slots: 100, Latency: Latency{Mean: 2 * time.Millisecond}, Replies: Replies{Tokens: 40, Sigma: 0.5}}

func start(t testing.TB, c Config) *Server {
	t.Helper()
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// client is an HTTP client of its own connections; h2c where that is wanted.
func client(t testing.TB, h2c bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!h2c)
	tr.Protocols.SetUnencryptedHTTP2(h2c)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// post sends a body and returns the status and the answer.
func post(t testing.TB, c *http.Client, url, body string) (int, []byte, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b, resp.Header
}

// completion is a reply as clients read it.
type completion struct {
	Object  string
	Model   string
	Choices []struct {
		Index   int
		Text    string
		Message struct {
			Role      string
			Content   *string
			ToolCalls []struct {
				ID, Type string
				Function struct{ Name, Arguments string }
			} `json:"tool_calls"`
		}
		Logprobs *struct {
			Content []struct {
				Token   string
				Logprob float64
				Top     []struct{ Token string } `json:"top_logprobs"`
			}
			Tokens []string
		}
		Finish string `json:"finish_reason"`
	}
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
	}
}

func chatOf(t testing.TB, c *http.Client, base, body string) completion {
	t.Helper()
	status, b, _ := post(t, c, base+"/chat/completions", body)
	if status != 200 {
		t.Fatalf("%s: got %d %s", body, status, b)
	}
	var v completion
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: got %s: %v", body, b, err)
	}
	return v
}

const hello = `"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Hello"},{"type":"image_url","image_url":{"url":"http://x/y.png"}}]}]`

func TestChat(t *testing.T) {
	for _, h2c := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2c=%v", h2c), func(t *testing.T) {
			s := start(t, quick)
			base, c := s.URLs()[0], client(t, h2c)
			v := chatOf(t, c, base, `{"model":"sim-slots","n":3,"max_tokens":20,"seed":7,`+hello+`}`)
			if v.Object != "chat.completion" || v.Model != "sim-slots" || len(v.Choices) != 3 {
				t.Fatalf("got %+v", v)
			}
			sum := 0
			for i, ch := range v.Choices {
				n := tokensOf(*ch.Message.Content)
				sum += n
				if ch.Index != i || ch.Message.Role != "assistant" || n == 0 || n > 20 || (ch.Finish == "length") != (n == 20) && ch.Finish != "stop" {
					t.Errorf("choice %d: got %+v of %d tokens", i, ch, n)
				}
			}
			if u := v.Usage; u.Completion != sum || u.Prompt < 256 || u.Total != u.Prompt+u.Completion {
				t.Errorf("got usage %+v, want %d tokens of replies and a picture's 256 in the prompt", u, sum)
			}
		})
	}
}

// The same request gets the same reply, from any server with this seed; another
// seed, in the request or the server's, another reply.
func TestDeterminism(t *testing.T) {
	say := func(c Config, body string) string {
		s := start(t, c)
		return *chatOf(t, client(t, false), s.URLs()[0], body).Choices[0].Message.Content
	}
	other := quick
	other.Seed = 1
	first := say(quick, `{`+hello+`}`)
	if again := say(quick, `{"temperature":1,`+hello+`}`); again != first {
		t.Errorf("got %q, want %q", again, first)
	}
	for name, got := range map[string]string{
		"seed of the request": say(quick, `{"seed":3,`+hello+`}`),
		"seed of the server":  say(other, `{`+hello+`}`),
		"other words":         say(quick, `{"messages":[{"role":"user","content":"Bye"}]}`),
	} {
		if got == first {
			t.Errorf("%s: got the same reply", name)
		}
	}
}

func TestStopAndLength(t *testing.T) {
	c := quick
	c.Replies.Kind = "echo"
	s := start(t, c)
	base, cl := s.URLs()[0], client(t, false)
	for _, x := range []struct{ params, want, finish string }{
		{``, "one two three four", "stop"},
		{`"stop":"three",`, "one two ", "stop"},
		{`"stop":["none","two"],`, "one ", "stop"},
		{`"max_tokens":2,`, "one two ", "length"},
		{`"max_completion_tokens":1,`, "one ", "length"},
		{`"max_tokens":5,`, "one two three four", "stop"},
	} {
		v := chatOf(t, cl, base, `{`+x.params+`"messages":[{"role":"user","content":"one two three four"}]}`).Choices[0]
		if *v.Message.Content != x.want || v.Finish != x.finish {
			t.Errorf("%s got %q and %q, want %q and %q", x.params, *v.Message.Content, v.Finish, x.want, x.finish)
		}
	}
	v := chatOf(t, client(t, false), start(t, quick).URLs()[0], `{"ignore_eos":true,"max_tokens":300,`+hello+`}`)
	if v.Usage.Completion != 300 || v.Choices[0].Finish != "length" {
		t.Errorf("ignore_eos: got %d tokens and %s, want 300 and length", v.Usage.Completion, v.Choices[0].Finish)
	}
}

// events reads a stream, and reports whether it came to its end.
func events(t testing.TB, r io.Reader) (chunks []map[string]any, whole bool) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		data, ok := strings.CutPrefix(in.Text(), "data: ")
		if !ok {
			if in.Text() != "" {
				t.Errorf("got line %q", in.Text())
			}
			continue
		}
		if data == "[DONE]" {
			return chunks, true
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Errorf("got event %q: %v", data, err)
		}
		chunks = append(chunks, v)
	}
	return chunks, false
}

func TestStreaming(t *testing.T) {
	slow := quick
	slow.Latency.Mean = 300 * time.Millisecond
	s := start(t, slow)
	base := s.URLs()[0]
	for _, h2c := range []bool{false, true} {
		c := client(t, h2c)
		body := `{"n":2,"max_tokens":30,` + hello + `,"logprobs":true,`
		want := chatOf(t, c, base, body+`"stream":false}`)
		resp, err := c.Post(base+"/chat/completions", "application/json", strings.NewReader(body+`"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`))
		if err != nil {
			t.Fatal(err)
		}
		chunks, whole := events(t, resp.Body)
		resp.Body.Close()
		texts, finish, pieces := make([]string, 2), make([]any, 2), 0
		var usage map[string]any
		told := 0.0
		for _, ch := range chunks {
			u, ok := ch["usage"].(map[string]any)
			if n, _ := u["completion_tokens"].(float64); !ok || n < told {
				t.Errorf("got usage %v behind %v tokens, want more", ch["usage"], told)
			} else {
				usage, told = u, n
			}
			for _, x := range ch["choices"].([]any) {
				m := x.(map[string]any)
				i := int(m["index"].(float64))
				if text, ok := m["delta"].(map[string]any)["content"].(string); ok && text != "" {
					texts[i] += text
					pieces++
				}
				if f := m["finish_reason"]; f != nil {
					finish[i] = f
				}
			}
		}
		for i := range texts {
			if texts[i] != *want.Choices[i].Message.Content || finish[i] != want.Choices[i].Finish {
				t.Errorf("choice %d: got %q and %v, want %q and %v", i, texts[i], finish[i], *want.Choices[i].Message.Content, want.Choices[i].Finish)
			}
		}
		if !whole || usage == nil || int(usage["completion_tokens"].(float64)) != want.Usage.Completion || pieces < 4 {
			t.Errorf("got whole %v, usage %v, %d pieces; want %d tokens in 4 pieces or more", whole, usage, pieces, want.Usage.Completion)
		}
	}
}

func TestStreamedTools(t *testing.T) {
	s := start(t, quick)
	c := client(t, false)
	body := `{"parallel_tool_calls":true,"messages":[{"role":"user","content":"x"}],` + toolsBody
	want := chatOf(t, c, s.URLs()[0], body+`}`).Choices[0].Message.ToolCalls
	resp, err := c.Post(s.URLs()[0]+"/chat/completions", "", strings.NewReader(body+`,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	chunks, _ := events(t, resp.Body)
	var names, args [2]string
	for _, ch := range chunks {
		for _, x := range ch["choices"].([]any) {
			calls, _ := x.(map[string]any)["delta"].(map[string]any)["tool_calls"].([]any)
			for _, c := range calls {
				m := c.(map[string]any)
				f := m["function"].(map[string]any)
				i := int(m["index"].(float64))
				if n, ok := f["name"].(string); ok {
					names[i] = n
				}
				args[i] += f["arguments"].(string)
			}
		}
	}
	for i, w := range want {
		if names[i] != w.Function.Name || args[i] != w.Function.Arguments {
			t.Errorf("call %d: got %s %s, want %s %s", i, names[i], args[i], w.Function.Name, w.Function.Arguments)
		}
	}
}

func TestLogprobs(t *testing.T) {
	s := start(t, quick)
	c := client(t, false)
	v := chatOf(t, c, s.URLs()[0], `{"logprobs":true,"top_logprobs":3,"max_tokens":6,`+hello+`}`).Choices[0]
	text := ""
	for _, x := range v.Logprobs.Content {
		text += x.Token
		if x.Logprob > 0 || len(x.Top) != 3 {
			t.Errorf("got %+v", x)
		}
	}
	if text != *v.Message.Content || len(v.Logprobs.Content) == 0 {
		t.Errorf("got tokens of %q, want %q", text, *v.Message.Content)
	}
}

func TestCompletionsAndEmbeddings(t *testing.T) {
	s := start(t, quick)
	base, c := s.URLs()[0], client(t, true)
	for _, prompt := range []string{`"Once upon"`, `["Once upon"]`, `[1,2,3]`} {
		_, b, _ := post(t, c, base+"/completions", `{"prompt":`+prompt+`,"max_tokens":4,"logprobs":2}`)
		var v completion
		if err := json.Unmarshal(b, &v); err != nil || v.Object != "text_completion" || v.Choices[0].Text == "" || len(v.Choices[0].Logprobs.Tokens) != v.Usage.Completion || v.Usage.Prompt != 3 {
			t.Errorf("prompt %s: got %s: %v", prompt, b, err)
		}
	}
	resp, err := c.Post(base+"/completions", "", strings.NewReader(`{"prompt":"x","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	chunks, whole := events(t, resp.Body)
	resp.Body.Close()
	if !whole || len(chunks) < 2 {
		t.Errorf("streamed completion: got %d chunks, whole %v", len(chunks), whole)
	}
	var v struct {
		Data []struct {
			Index     int
			Embedding []float64
		}
		Usage struct {
			Prompt int `json:"prompt_tokens"`
		}
	}
	_, b, _ := post(t, c, base+"/embeddings", `{"input":["the red house","a red house","quite otherwise"],"dimensions":64}`)
	if err := json.Unmarshal(b, &v); err != nil || len(v.Data) != 3 || len(v.Data[2].Embedding) != 64 || v.Usage.Prompt == 0 {
		t.Fatalf("got %s: %v", b, err)
	}
	dot := func(i, k int) (sum float64) {
		for n := range v.Data[i].Embedding {
			sum += v.Data[i].Embedding[n] * v.Data[k].Embedding[n]
		}
		return sum
	}
	if !about(dot(0, 0), 1, 1e-5) || dot(0, 1) < dot(0, 2) {
		t.Errorf("got length %v, likeness %v of texts that are alike and %v of others", dot(0, 0), dot(0, 1), dot(0, 2))
	}
	if _, b, _ := post(t, c, base+"/embeddings", `{"input":"x","encoding_format":"base64"}`); !bytes.Contains(b, []byte(`"embedding":"`)) {
		t.Errorf("base64: got %s", b)
	}
}

func TestRefusals(t *testing.T) {
	c := quick
	c.APIKey = "secret"
	locked := start(t, c)
	s := start(t, quick)
	cl := client(t, false)
	for _, x := range []struct {
		name, path, body string
		status           int
		want             string
	}{
		{"model", "chat/completions", `{"model":"gpt-9",` + hello + `}`, 404, `this server has \"sim-slots\"`},
		{"no messages", "chat/completions", `{}`, 400, "messages is missing"},
		{"role", "chat/completions", `{"messages":[{"role":"robot","content":"x"}]}`, 400, "robot"},
		{"not JSON", "chat/completions", `{`, 400, "not JSON"},
		{"n", "chat/completions", `{"n":0,` + hello + `}`, 400, `\"n\" is not a whole number of 1 or more`},
		{"max_tokens", "chat/completions", `{"max_tokens":-1,` + hello + `}`, 400, "max_tokens"},
		{"temperature", "chat/completions", `{"temperature":-1,` + hello + `}`, 400, "non-negative"},
		{"schema", "chat/completions", `{"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"what"}}},` + hello + `}`, 400, "schema"},
		{"regex", "chat/completions", `{"guided_regex":"(",` + hello + `}`, 400, "missing closing"},
		{"tool", "chat/completions", `{"tool_choice":{"type":"function","function":{"name":"no"}},` + toolsBody + `,` + hello + `}`, 400, "not one of the tools"},
		{"context", "chat/completions", `{"max_tokens":200000,` + hello + `}`, 400, "context_length_exceeded"},
		{"prompts", "completions", `{"prompt":["a","b"]}`, 400, "one at a time"},
		{"input", "embeddings", `{}`, 400, "input"},
		{"path", "speech", `{}`, 404, "there is no POST"},
	} {
		status, b, _ := post(t, cl, s.URLs()[0]+"/"+x.path, x.body)
		var e struct {
			Error struct{ Message, Type string }
		}
		if err := json.Unmarshal(b, &e); err != nil || status != x.status || e.Error.Message == "" || !strings.Contains(string(b), x.want) {
			t.Errorf("%s: got %d %s, want %d with %q", x.name, status, b, x.status, x.want)
		}
	}
	if status, b, _ := post(t, cl, locked.URLs()[0]+"/chat/completions", `{`+hello+`}`); status != 401 || !bytes.Contains(b, []byte("invalid_api_key")) {
		t.Errorf("no key: got %d %s, want 401", status, b)
	}
}

func TestPlaces(t *testing.T) {
	s := start(t, quick)
	base := strings.TrimSuffix(s.URLs()[0], "/v1")
	c := client(t, false)
	chatOf(t, c, base, `{`+hello+`}`) // without /v1 too
	for path, want := range map[string]string{
		"/v1/models": `"id":"sim-slots"`, "/v1/models/sim-slots": `"max_model_len"`, "/health": "",
		"/metrics": "vllm:request_success_total{model_name=\"sim-slots\"} 1\n", "/sim/stats": `"done":1`,
	} {
		resp, err := c.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: got %d %s, want %q", path, resp.StatusCode, b, want)
		}
	}
}

func TestReplicasAndPorts(t *testing.T) {
	c := quick
	c.Replicas = 3
	s := start(t, c)
	urls := s.URLs()
	if len(urls) != 3 || urls[0] == urls[1] {
		t.Fatalf("got %v, want 3 addresses", urls)
	}
	for i, u := range urls {
		for range i + 1 {
			chatOf(t, client(t, false), u, `{`+hello+`}`)
		}
	}
	st, err := Fetch(t.Context(), urls[1])
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range st.Replicas {
		if r.URL != urls[i] || r.Done != int64(i+1) {
			t.Errorf("replica %d: got %s with %d done, want %s with %d", i, r.URL, r.Done, urls[i], i+1)
		}
	}
	port, _ := strconv.Atoi(urls[0][strings.LastIndex(urls[0], ":")+1 : len(urls[0])-3])
	c.Port, c.Replicas = port, 1
	if _, err := Start(c); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d is taken", port)) {
		t.Errorf("a port that is taken: got %v", err)
	}
}

func TestStatsOfKeys(t *testing.T) {
	s := start(t, quick)
	base, c := s.URLs()[0], client(t, false)
	for _, key := range []string{"a", "b", "a", "", "c", "a"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/chat/completions", strings.NewReader(`{`+hello+`}`))
		req.Header.Set("Idempotency-Key", key)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if st := s.Stats(); st.Distinct != 3 || st.Paid != 3 || st.Twice != 1 || st.Sum().Done != 6 {
		t.Errorf("got %d keys, %d paid, %d twice, %d done; want 3, 3, 1, 6", st.Distinct, st.Paid, st.Twice, st.Sum().Done)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, strings.TrimSuffix(base, "/v1")+"/sim/reset", nil)
	resp, err := c.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if st := s.Stats(); st.Distinct != 0 || st.Sum().Calls != 0 {
		t.Errorf("after a reset: got %d keys and %d calls, want none", st.Distinct, st.Sum().Calls)
	}
}

// A client that goes away frees its slot.
func TestGivenUp(t *testing.T) {
	c := quick
	c.Slots, c.Latency.Mean = 1, time.Hour
	for _, h2c := range []bool{false, true} {
		s := start(t, c)
		cl := client(t, h2c)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URLs()[0]+"/chat/completions", strings.NewReader(`{`+hello+`}`))
			resp, err := cl.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
		until(t, func() bool { return s.Stats().Sum().Running == 1 })
		cancel()
		<-done
		until(t, func() bool { st := s.Stats().Sum(); return st.Running == 0 && st.GivenUp == 1 })
	}
}

// until waits for something to be so.
func until(t testing.TB, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that within 5 s")
		}
	}
}

func TestBadConfig(t *testing.T) {
	for _, x := range []struct {
		name  string
		c     Config
		field string
		want  string
	}{
		{"preset", Config{Preset: "8bb"}, "preset", `did you mean "8b"`},
		{"replicas", Config{Replicas: -1}, "replicas", "-1"},
		{"slots", Config{Slots: -1}, "slots", "-1"},
		{"queue", Config{Queue: -2}, "queue", "-2"},
		{"latency", Config{Latency: Latency{Mean: -1}}, "latency", "more than 0"},
		{"sigma", Config{Latency: Latency{Sigma: -1}}, "sigma", "-1"},
		{"engine", Config{Engine: Costs{KV: -5}}, "engine.kv_tokens", "-5"},
		{"port", Config{Port: 70000}, "port", "70000"},
		{"ports", Config{Port: 65535, Replicas: 2}, "port", "65535"},
		{"step", Config{Steps: []Step{{At: time.Second}}}, "steps", "0 slots"},
		{"reply", Config{Replies: Replies{Kind: "ecco"}}, "reply", `did you mean "echo"`},
		{"template", Config{Replies: Replies{Kind: "template", Template: "{{"}}, "template", "unclosed"},
		{"no template", Config{Replies: Replies{Kind: "template"}}, "template", "missing"},
		{"no file", Config{Replies: Replies{Kind: "file"}}, "replies", "missing"},
		{"file", Config{Replies: Replies{Kind: "file", Path: "/nowhere.jsonl"}}, "replies", "no such file"},
		{"fault", Config{Faults: []Fault{{Kind: "regect", Share: 1}}}, "faults", `did you mean "reject"`},
		{"share", Config{Faults: []Fault{{Kind: Reject}}}, "faults", "share: got 0"},
		{"times", Config{Faults: []Fault{{Kind: Reset, Share: 1, From: 2, Until: 1}}}, "faults", "ends at"},
		{"replica", Config{Faults: []Fault{{Kind: Reset, Share: 1, Replicas: []int{1}}}}, "faults", "no replica 1"},
		{"storm", Config{Storm: "hail"}, "storm", "hail"},
		{"half", Config{Storm: "half"}, "storm", "2 or more"},
		{"clock", Config{Clock: "noon"}, "clock", "noon"},
	} {
		s, err := Start(x.c)
		if err == nil {
			s.Close()
		}
		f, ok := err.(*llm.FieldError) //nolint:errorlint // that is what is promised
		if !ok || f.Field != x.field || !strings.Contains(f.Error(), x.want) {
			t.Errorf("%s: got %v, want one at %s with %q", x.name, err, x.field, x.want)
		}
	}
}
