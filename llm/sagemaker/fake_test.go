package sagemaker

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/smithy-go/eventstream"

	"matrix/llm"
	"matrix/matrixtest"
)

const endpoint = "llama-3-endpoint"

// container takes the OpenAI schema. A container tells by the body what is asked
// for:
// https://docs.djl.ai/docs/serving/serving/docs/lmi/user_guides/chat_input_output_schema.html
func container(body []byte) matrixtest.Codec {
	return matrixtest.OpenAI(func(r *http.Request) (what, model string, known bool) {
		auth := r.Header.Get("Authorization")
		known = strings.Contains(auth, "Credential="+keyID+"/") && strings.Contains(auth, "/us-west-2/sagemaker/aws4_request")
		for what, field := range map[string]string{"chat/completions": `"messages":`, "completions": `"prompt":`, "embeddings": `"input":`} {
			if bytes.Contains(body, []byte(field)) {
				return what, "", known
			}
		}
		return "", "", known
	}, nil)
}

// codec speaks InvokeEndpoint and InvokeEndpointWithResponseStream before a
// container:
// https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_InvokeEndpoint.html
// https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_runtime_ResponseStream.html
var codec = matrixtest.Codec{
	Read: func(r *http.Request, body []byte) (matrixtest.Call, error) {
		name, op, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/endpoints/"), "/")
		streams := op == "invocations-response-stream"
		if name != endpoint || op != "invocations" && !streams || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			return matrixtest.Call{}, errors.New("not an invocation")
		}
		c, err := container(body).Read(r, body)
		if err == nil && c.Stream != streams {
			err = errors.New("the body asks for another kind of reply than the operation")
		}
		c.Key = r.Header.Get("X-Amzn-Sagemaker-Inference-Id")
		return c, err
	},
	Write: container(nil).Write,
	Events: func(c *matrixtest.Call, rep *llm.Reply) (http.Header, [][]byte) {
		head, events := container(nil).Events(c, rep)
		var out [][]byte
		for _, e := range events { // cut anywhere
			out = append(out, append(part(e[:len(e)/2]), part(e[len(e)/2:])...))
		}
		return http.Header{
			"Content-Type": {"application/vnd.amazon.eventstream"}, "X-Amzn-Sagemaker-Content-Type": {head.Get("Content-Type")},
		}, out
	},
}

func start(t testing.TB, answer func(matrixtest.Call) matrixtest.Answer) llm.Driver {
	return open(t, Config{}, codec.Serve(t, secret, answer))
}

func open(t testing.TB, c Config, url string) llm.Driver {
	t.Helper()
	c.Endpoint, c.Model = endpoint, "llama"
	w, err := c.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func part(b []byte) []byte { return frame("event", "PayloadPart", "application/octet-stream", b) }

// exception is an error in the middle of a stream.
func exception(kind, payload string) string {
	return string(frame("exception", kind, "application/json", []byte(payload)))
}

// frame is a message of the event stream encoding:
// https://smithy.io/2.0/aws/amazon-eventstream.html
func frame(typ, kind, media string, payload []byte) []byte {
	msg := eventstream.Message{Payload: payload}
	for k, v := range map[string]string{":message-type": typ, ":" + typ + "-type": kind, ":content-type": media} {
		msg.Headers.Set(k, eventstream.StringValue(v))
	}
	var b bytes.Buffer
	if err := eventstream.NewEncoder().Encode(&b, msg); err != nil {
		panic(err)
	}
	return b.Bytes()
}
