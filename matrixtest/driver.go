package matrixtest

import (
	"testing"
	"time"

	"matrix/llm"
)

// Fake is a fake of a model service that speaks a vendor's documented wire
// format, and a driver to it.
type Fake struct {
	// Start serves on loopback until t ends, and returns a driver to there. Each
	// call that arrives is read into a Call; what answer says of it is sent in
	// the vendor's format. answer may be called concurrently. The driver asks for
	// model Model.
	Start func(t testing.TB, answer func(Call) Answer) llm.Driver

	Model       string            // that Start's drivers ask for
	Secrets     []string          // credentials that Start gives its drivers; the first of them is a key or a token
	Unsupported []Feature         // what the vendor truly cannot do
	Complaints  []Complaint       // the errors of the vendor's documentation
	Ends        map[string]string // the vendor's words for why a reply ended, to one of whole, cut, filtered, refused (Send fails, and says what it cost) and broken (a Client tries again)
	Quota       *QuotaHeaders     // nil: the vendor says nothing of its limits
}

// Feature is what a service may not support. A driver refuses, before it sends anything,
// a request for what its service does not support, but for those of which that is said.
type Feature string

// Features of requests.
const (
	Embeddings   Feature = "embeddings"
	Completions  Feature = "completions"    // a prompt to be continued
	System       Feature = "system message" // the driver finds another way
	Tools        Feature = "tools"
	ToolChoice   Feature = "tool choice" // none, required, or a tool's name
	ParallelCall Feature = "parallel tool calls"
	Images       Feature = "images"
	ImageURLs    Feature = "image urls"
	JSON         Feature = "any json"
	Schema       Feature = "json schema"
	Regex        Feature = "regex"
	Choices      Feature = "choice"
	Grammar      Feature = "grammar"
	TopP         Feature = "top_p"
	Stop         Feature = "stop"
	Penalties    Feature = "penalties" // presence and frequency
	Effort       Feature = "reasoning_effort"
	Logprobs     Feature = "logprobs"
	Seed         Feature = "seed" // the driver leaves it out
	N            Feature = "n"    // the driver draws one
	ExtraBody    Feature = "extra_body"
	Streaming    Feature = "streaming"
)

// Features of what comes back. Nothing is refused where they are missing.
const (
	Reasoning       Feature = "reasoning"
	Cached          Feature = "cached tokens"
	CacheWrites     Feature = "tokens written to a cache"
	ReasoningTokens Feature = "reasoning tokens"
	Opaque          Feature = "opaque" // the service signs what the model thought, and wants it back with tool calls
	StreamUsage     Feature = "usage in a stream"
	ModelName       Feature = "model name"    // a reply names the model
	Listing         Feature = "models listed" // Probe returns some
	Keys            Feature = "idempotency key"
	RetryAfter      Feature = "retry-after"
	StreamedCalls   Feature = "tool calls in a stream"
	CallIDs         Feature = "ids of tool calls" // the driver makes them up
	ToolErrors      Feature = "results of tools that are errors"
	ContextFate     Feature = "context error" // no field of an error says that the conversation is too long
	TooLong         Feature = "a code of its own for conversations that are too long"
	HTTP            Feature = "http" // the exchange is not HTTP/1.1, and what goes wrong with that is not tried
)

// Call is a call as the service understood it.
type Call struct {
	llm.Request        // system messages come first; Sampling has what arrived; N 0 where it was not asked for; Opaque of a message is the signature that came with it
	Model       string // asked for
	Stream      bool
	Probe       bool // no call for a reply: a question which models there are, or whether anybody is there
	Known       bool // the credentials are those of the driver
}

// Answer is what a service does with a call.
type Answer struct {
	Reply     llm.Reply         // Choices or Vectors, Usage, Model. Finish: stop, length, tool_calls, or one of the vendor's own words; Opaque: a JSON text, the signature of what the model thought
	Header    map[string]string // more headers
	Complaint *Complaint        // instead of Reply; with Break: in the middle of it
	Fault     Fault
	Served    []string // models listed, to a Probe
}

// Fault is what goes wrong while a service answers. Of a stream it happens in
// the middle of the events.
type Fault int

// Faults.
const (
	Fine       Fault = iota
	Reset            // the connection is reset before the answer
	CutOff           // the connection is reset in the middle of the answer
	NotAReply        // a body that the vendor's format does not know
	Empty            // success, in the vendor's format, without a reply
	Hang             // in the middle of the answer nothing more comes until the client leaves
	Break            // a stream ends with Complaint
	Short            // a stream ends in the middle, as if it were whole
	Bare             // 500 with a body of text, as proxies write it
	WebPage          // 200 with a page of HTML, as of somebody on the way
	Redirected       // 302 to elsewhere
)

// Complaint is an error as a service tells it.
type Complaint struct {
	Name   string // of the test
	Status int
	Header map[string]string
	Body   string // {secret} in it stands for the first of the secrets
	Event  string // the same as it comes in the middle of a stream; empty where it cannot

	Kind  llm.Kind
	Code  string        // of the Failure; empty: not looked at
	After time.Duration // of the Failure
	Hint  string        // a part of the Failure's; empty: not looked at
}

// QuotaHeaders is how a vendor tells its limits, and what a driver reads there.
type QuotaHeaders struct {
	Header map[string]string
	Want   []llm.Quota // in any order
}

// Driver checks that a driver keeps the promises of llm.Driver.
func Driver(t *testing.T, f Fake) {
	for _, c := range driverCases {
		t.Run(c.name, func(t *testing.T) {
			s := &driverSuite{T: t, fake: &f}
			for _, need := range c.needs {
				if s.lacks(need) {
					t.Skipf("the service does not support %s", need)
				}
			}
			c.f(s)
		})
	}
}

var driverCases = []struct {
	name  string
	needs []Feature
	f     func(s *driverSuite)
}{
	{"a chat", nil, plainChat},
	{"many turns", nil, manyTurns},
	{"sampling", nil, samplingArrives},
	{"what the service does not support is refused", nil, unsupportedRefused},
	{"extra_body", []Feature{ExtraBody}, extraArrives},
	{"tools", []Feature{Tools}, toolsArrive},
	{"tool choice", []Feature{Tools, ToolChoice}, toolChoices},
	{"tool calls", []Feature{Tools}, toolCalls},
	{"tool results", []Feature{Tools}, toolResults},
	{"signed thoughts", []Feature{Tools, Opaque}, signedThoughts},
	{"signed thoughts in a stream", []Feature{Tools, Opaque, Streaming}, streamedThoughts},
	{"another's signed thoughts", []Feature{Tools}, othersThoughts},
	{"images", []Feature{Images}, images},
	{"a schema", []Feature{Schema}, schemaArrives},
	{"other formats", nil, formatsArrive},
	{"embeddings", []Feature{Embeddings}, embeddings},
	{"a completion", []Feature{Completions}, completion},
	{"n replies", []Feature{N}, several},
	{"reasoning is kept apart", []Feature{Reasoning}, reasoning},
	{"thoughts aloud", nil, thoughtsAloud},
	{"usage", nil, usage},
	{"why it ended", nil, ends},
	{"a stream", []Feature{Streaming}, streamed},
	{"reasoning in a stream", []Feature{Streaming, Reasoning}, streamedReasoning},
	{"tool calls in a stream", []Feature{Streaming, Tools, StreamedCalls}, streamedCalls},
	{"a stream cut off", []Feature{Streaming, HTTP}, streamCutOff},
	{"a stream that ends too soon", []Feature{Streaming}, streamBreaks},
	{"a stream that stalls", []Feature{Streaming}, streamStalls},
	{"until", []Feature{Streaming}, streamUntil},
	{"enough", []Feature{Streaming}, streamEnough},
	{"complaints", nil, complaints},
	{"every fate is documented", nil, fatesCovered},
	{"broken exchanges", nil, brokenExchanges},
	{"nobody there", nil, nobodyThere},
	{"quota", nil, quotas},
	{"cancelled", nil, cancelledSend},
	{"cancelled in a stream", []Feature{Streaming}, cancelledStream},
	{"probe", nil, probes},
	{"many at once", nil, manyAtOnce},
	{"large replies", nil, largeReplies},
	{"a stream without end", []Feature{Streaming}, streamWithoutEnd},
}
