package vllmgrpc

import (
	"encoding/binary"
	"errors"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a protobuf message that is being written. As in proto3, what is
// zero is left out, but for what is called with set.
type message []byte

func (m *message) text(n protowire.Number, s string) {
	if s != "" {
		m.bytes(n, []byte(s))
	}
}

// bytes writes a field also where it is empty.
func (m *message) bytes(n protowire.Number, b []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, n, protowire.BytesType), b)
}

// sub writes a message, if it says anything.
func (m *message) sub(n protowire.Number, b message) {
	if len(b) > 0 {
		m.bytes(n, b)
	}
}

func (m *message) number(n protowire.Number, v uint64) {
	if v != 0 {
		m.setNumber(n, v)
	}
}

func (m *message) setNumber(n protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, n, protowire.VarintType), v)
}

func (m *message) yes(n protowire.Number, v bool) {
	if v {
		m.setNumber(n, 1)
	}
}

func (m *message) float(n protowire.Number, v float64) {
	if v != 0 {
		m.setFloat(n, v)
	}
}

func (m *message) setFloat(n protowire.Number, v float64) {
	*m = protowire.AppendFixed32(protowire.AppendTag(*m, n, protowire.Fixed32Type), math.Float32bits(float32(v)))
}

// packed writes a repeated number.
func (m *message) packed(n protowire.Number, vs []uint32) {
	if len(vs) == 0 {
		return
	}
	var b []byte
	for _, v := range vs {
		b = protowire.AppendVarint(b, uint64(v))
	}
	m.bytes(n, b)
}

var errMessage = errors.New("not a message of this API")

// field is a field of a message: its number is in v, or its bytes in b.
type field struct {
	n protowire.Number
	v uint64
	b []byte
}

// fields calls f for each field of a message.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errMessage
		}
		b = b[size:]
		at := field{n: n}
		switch typ {
		case protowire.VarintType:
			at.v, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			at.b, size = protowire.ConsumeBytes(b)
		case protowire.Fixed32Type:
			var v uint32
			v, size = protowire.ConsumeFixed32(b)
			at.v = uint64(v)
		default: // unknown here
			size = protowire.ConsumeFieldValue(n, typ, b)
		}
		if size < 0 {
			return errMessage
		}
		if err := f(at); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// floats reads a repeated float: packed, or one of them.
func (f field) floats() ([]float32, error) {
	if f.b == nil {
		return []float32{math.Float32frombits(uint32(f.v))}, nil
	}
	if len(f.b)%4 != 0 {
		return nil, errMessage
	}
	out := make([]float32, len(f.b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(f.b[4*i:]))
	}
	return out, nil
}

// numbers reads a repeated number: packed, or one of them.
func (f field) numbers() ([]uint32, error) {
	if f.b == nil {
		return []uint32{uint32(f.v)}, nil
	}
	var out []uint32
	for b := f.b; len(b) > 0; {
		v, size := protowire.ConsumeVarint(b)
		if size < 0 {
			return nil, errMessage
		}
		out, b = append(out, uint32(v)), b[size:]
	}
	return out, nil
}

// generated is a GenerateResponse.
type generated struct {
	prompt   int  // tokens
	prompted bool // the tokens of the prompt were told
	text     string
	tokens   int // in this piece
	ids      []uint32
	logprobs []float32
	others   [][]candidate // of each token

	finished bool
	finish   uint64 // FinishReason
	output   int    // tokens of the whole reply
}

// FinishReason of finish_info.
const (
	notFinished = iota
	finishLength
	finishStop
	finishAborted
)

// candidate is a token that could stand where another does.
type candidate struct {
	ID      uint32  `json:"id"`
	Logprob float32 `json:"logprob"`
	Rank    uint32  `json:"rank"`
}

func decodeGenerated(b []byte) (*generated, error) {
	g := &generated{}
	return g, fields(b, func(f field) error {
		switch f.n {
		case 1: // prompt_info
			g.prompted = true
			return fields(f.b, func(f field) error {
				if f.n == 1 {
					g.prompt = int(f.v)
				}
				return nil
			})
		case 2: // outputs
			return fields(f.b, g.output1)
		}
		return nil
	})
}

// output1 reads a field of SequenceOutput.
func (g *generated) output1(f field) (err error) {
	switch f.n {
	case 2:
		g.text = string(f.b)
	case 3:
		g.tokens = int(f.v)
	case 4:
		var ids []uint32
		ids, err = f.numbers()
		g.ids = append(g.ids, ids...)
	case 5:
		var v []float32
		v, err = f.floats()
		g.logprobs = append(g.logprobs, v...)
	case 7:
		var others []candidate
		err = fields(f.b, func(f field) error {
			if f.n != 1 {
				return nil
			}
			var c candidate
			others = append(others, c)
			at := &others[len(others)-1]
			return fields(f.b, func(f field) error {
				switch f.n {
				case 1:
					at.ID = uint32(f.v)
				case 2:
					at.Logprob = math.Float32frombits(uint32(f.v))
				case 3:
					at.Rank = uint32(f.v)
				}
				return nil
			})
		})
		g.others = append(g.others, others)
	case 8:
		g.finished = true
		err = fields(f.b, func(f field) error {
			switch f.n {
			case 1:
				g.output = int(f.v)
			case 2:
				g.finish = f.v
			}
			return nil
		})
	}
	return err
}
