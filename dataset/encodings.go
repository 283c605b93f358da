package dataset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/parquet-go/parquet-go/format"
)

// The encodings of Parquet, as its Encodings.md has them. Each decoder gives n
// values or an error: never fewer, and never what stood in memory before.

// values decodes n values, which are not null.
func (l *leaf) values(e format.Encoding, data []byte, n int) (values, error) {
	switch e {
	case format.Plain:
		return l.plain(data, n)
	case format.PlainDictionary, format.RLEDictionary: //nolint:staticcheck // older files have it
		if l.dict == nil {
			return values{}, errors.New("there is no dictionary")
		}
		if len(data) == 0 {
			return values{}, errShort
		}
		index, err := hybrid[uint32](data[1:], int(data[0]), n)
		for _, i := range index {
			if int64(i) >= int64(l.dict.len()) {
				return values{}, fmt.Errorf("entry %d of a dictionary of %d", i, l.dict.len())
			}
		}
		return values{index: index, dict: l.dict}, err
	case format.RLE:
		if l.kind != format.Boolean {
			break
		}
		if len(data) < 4 || int64(binary.LittleEndian.Uint32(data)) > int64(len(data)-4) {
			return values{}, errShort
		}
		out, err := hybrid[uint8](data[4:4+binary.LittleEndian.Uint32(data)], 1, n)
		return values{data: out, width: 1}, err
	case format.DeltaBinaryPacked:
		if l.kind != format.Int32 && l.kind != format.Int64 {
			break
		}
		ints, _, err := deltas(data, n)
		out := make([]byte, 0, len(ints)*l.width)
		for _, x := range ints {
			if l.width == 4 {
				out = binary.LittleEndian.AppendUint32(out, uint32(x))
			} else {
				out = binary.LittleEndian.AppendUint64(out, uint64(x))
			}
		}
		return values{data: out, width: l.width}, err
	case format.DeltaLengthByteArray:
		if l.kind != format.ByteArray {
			break
		}
		return deltaLengths(data, n)
	case format.DeltaByteArray:
		if l.kind != format.ByteArray && l.kind != format.FixedLenByteArray {
			break
		}
		return l.deltaStrings(data, n)
	case format.ByteStreamSplit:
		if l.width < 2 || l.kind == format.Int96 {
			break
		}
		if len(data) < n*l.width {
			return values{}, errShort
		}
		stride := len(data) / l.width
		out := make([]byte, n*l.width)
		for i := range n {
			for j := range l.width {
				out[i*l.width+j] = data[j*stride+i]
			}
		}
		return values{data: out, width: l.width}, nil
	}
	return values{}, fmt.Errorf("not known for columns of %s", l.kind)
}

// decodes reports whether values decodes what e has encoded.
func decodes(e format.Encoding) bool {
	switch e {
	case format.Plain, format.PlainDictionary, format.RLEDictionary, format.RLE, format.BitPacked, //nolint:staticcheck // older files have it
		format.DeltaBinaryPacked, format.DeltaLengthByteArray, format.DeltaByteArray, format.ByteStreamSplit:
		return true
	}
	return false
}

func (l *leaf) plain(data []byte, n int) (values, error) {
	switch l.kind {
	case format.Boolean:
		if len(data) < (n+7)/8 {
			return values{}, errShort
		}
		out := make([]byte, n)
		for i := range out {
			out[i] = data[i/8] >> (i % 8) & 1
		}
		return values{data: out, width: 1}, nil
	case format.ByteArray:
		if n > len(data)/4 {
			return values{}, errShort
		}
		offsets, at := make([]uint32, 1, n+1), 0
		out := make([]byte, 0, len(data)-4*n)
		for range n {
			if len(data)-at < 4 || int64(binary.LittleEndian.Uint32(data[at:])) > int64(len(data)-at-4) {
				return values{}, errShort
			}
			end := at + 4 + int(binary.LittleEndian.Uint32(data[at:]))
			out = append(out, data[at+4:end]...)
			offsets, at = append(offsets, uint32(len(out))), end
		}
		return values{data: out, offsets: offsets}, nil
	}
	if len(data)/l.width < n {
		return values{}, errShort
	}
	return values{data: data[:n*l.width], width: l.width}, nil
}

func widthOf(highest int) int { return bits.Len(uint(highest)) }

// hybrid decodes n values of the hybrid of run lengths and bit-packed values.
func hybrid[T uint8 | uint32](data []byte, width, n int) ([]T, error) {
	if width > 32 || width > 8*binary.Size(T(0)) {
		return nil, fmt.Errorf("values of %d bits", width)
	}
	out := make([]T, 0, min(n, 1<<20))
	for len(out) < n {
		head, k := binary.Uvarint(data)
		if k <= 0 {
			return nil, errShort
		}
		data = data[k:]
		count := int(min(head>>1, uint64(n))) // of values, or of groups of eight
		if head&1 == 0 {
			size := (width + 7) / 8
			if len(data) < size {
				return nil, errShort
			}
			var x uint64
			for i := range size {
				x |= uint64(data[i]) << (8 * i)
			}
			data = data[size:]
			for range min(count, n-len(out)) {
				out = append(out, T(x))
			}
			continue
		}
		m := min(8*count, n-len(out))
		if len(data)*8 < m*width {
			return nil, errShort
		}
		for i := range m {
			out = append(out, T(unpack(data, i*width, width)))
		}
		data = data[min(count*width, len(data)):] // the last group need not be whole
	}
	return out, nil
}

// unpack returns the width bits from bit at on, the lowest first.
func unpack(data []byte, at, width int) uint64 {
	i, shift := at/8, at%8
	if i+16 <= len(data) {
		x := binary.LittleEndian.Uint64(data[i:]) >> shift
		if shift > 0 {
			x |= binary.LittleEndian.Uint64(data[i+8:]) << (64 - shift)
		}
		if width < 64 {
			x &= 1<<width - 1
		}
		return x
	}
	var x uint64
	for b := range width {
		x |= uint64(data[(at+b)/8]>>((at+b)%8)&1) << b
	}
	return x
}

// deltas decodes n integers, and returns what follows. Sums wrap round, so that
// the lower half of each is right where 32 bits are meant.
func deltas(data []byte, n int) ([]int64, []byte, error) {
	bad := false
	uvarint := func() int64 {
		x, k := binary.Uvarint(data)
		bad = bad || k <= 0 || x > 1<<31
		data = data[max(k, 0):]
		return int64(x)
	}
	varint := func() int64 {
		x, k := binary.Varint(data)
		bad = bad || k <= 0
		data = data[max(k, 0):]
		return x
	}
	block, minis, total, last := uvarint(), uvarint(), uvarint(), varint()
	if bad || block <= 0 || minis <= 0 || block%minis != 0 || block/minis%8 != 0 || minis > block {
		return nil, nil, errors.New("the head of a block is wrong")
	}
	if total != int64(n) {
		return nil, nil, fmt.Errorf("%d values instead of %d", total, n)
	}
	out := make([]int64, 0, min(n, 1<<20))
	if total > 0 {
		out = append(out, last)
	}
	per := int(block / minis)
	for int64(len(out)) < total {
		least := varint()
		if bad || int64(len(data)) < minis {
			return nil, nil, errShort
		}
		widths := data[:minis]
		data = data[minis:]
		for _, w := range widths {
			m := min(per, int(total)-len(out))
			if m == 0 {
				break // the widths of what is left out are not looked at
			}
			if w > 64 || len(data)*8 < m*int(w) {
				return nil, nil, errShort
			}
			for i := range m {
				last += least + int64(unpack(data, i*int(w), int(w)))
				out = append(out, last)
			}
			data = data[min(per*int(w)/8, len(data)):]
		}
	}
	return out, data, nil
}

func deltaLengths(data []byte, n int) (values, error) {
	lengths, data, err := deltas(data, n)
	if err != nil {
		return values{}, err
	}
	offsets, at := make([]uint32, 1, n+1), int64(0)
	for _, x := range lengths {
		if at += x; x < 0 || at > int64(len(data)) {
			return values{}, errShort
		}
		offsets = append(offsets, uint32(at))
	}
	return values{data: data[:at], offsets: offsets}, nil
}

// deltaStrings decodes strings of which each begins as the one before it.
func (l *leaf) deltaStrings(data []byte, n int) (values, error) {
	prefixes, data, err := deltas(data, n)
	if err != nil {
		return values{}, err
	}
	suffixes, err := deltaLengths(data, n)
	if err != nil {
		return values{}, err
	}
	out := values{offsets: make([]uint32, 1, n+1)}
	for i, p := range prefixes {
		var before []byte
		if i > 0 {
			before = out.at(i - 1)
		}
		if p < 0 || p > int64(len(before)) || len(out.data) > maxPage {
			return values{}, errors.New("a prefix that is longer than the value before it")
		}
		out.data = append(append(out.data, before[:p]...), suffixes.at(i)...)
		out.offsets = append(out.offsets, uint32(len(out.data)))
		if l.width > 0 && len(out.at(i)) != l.width {
			return values{}, fmt.Errorf("a value of %d bytes in a column of %d", len(out.at(i)), l.width)
		}
	}
	return out, nil
}
