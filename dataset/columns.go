package dataset

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"matrix"
	"matrix/internal/jsontext"
)

// column writes the JSON of one column of a Parquet schema, or of a group of
// columns. What becomes of the types:
//
//	integers, floats    numbers; NaN and infinities null
//	decimals            numbers with all their digits
//	strings, enums      strings; bytes that are not UTF-8 make the row malformed
//	JSON                the value
//	other binary        a string where it is UTF-8, else base64
//	UUID                its usual form
//	timestamps          RFC 3339; without a zone where the column has none
//	dates, times        2006-01-02, 15:04:05.999999999
//	lists, maps         arrays; objects where the keys are strings, else arrays of {"key","value"}
//	groups              objects
//
// Values are assembled from repetition and definition levels as in the Dremel
// paper (Melnik et al., 2010).
type column struct {
	key      []byte // its name as `"name":`
	optional bool
	repeated bool
	def, rep int // levels at which the column is present, its own optional or repeated included
	first    int // its first leaf
	leaves   int // how many it has

	leaf    func([]byte, parquet.Value) ([]byte, error)
	columns []*column // of a group
	kind    groupKind
}

type groupKind int

const (
	object     groupKind = iota
	list                 // a group of one repeated column, which has one column
	stringMap            // a group of a repeated {key, value}
	wrapper              // the repeated middle of a list
	mapEntries           // the repeated middle of a stringMap
)

func columnsOf(root *parquet.Column) (*column, error) {
	c := &column{}
	if err := c.group(root, 0, 0); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *column) group(node *parquet.Column, def, rep int) error {
	for _, n := range node.Columns() {
		sub, err := newColumn(n, c.first+c.leaves, def, rep)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.columns, func(o *column) bool { return bytes.Equal(o.key, sub.key) }) {
			return fmt.Errorf("two columns are both named %s rename one of them", sub.key)
		}
		c.columns = append(c.columns, sub)
		c.leaves += sub.leaves
	}
	return nil
}

func newColumn(node *parquet.Column, first, def, rep int) (*column, error) {
	c := &column{
		key:      append(jsontext.AppendString(nil, node.Name()), ':'),
		optional: node.Optional(), repeated: node.Repeated(), def: def, rep: rep, first: first,
	}
	if c.optional || c.repeated {
		c.def++
	}
	if c.repeated {
		c.rep++
	}
	if node.Leaf() {
		c.leaves = 1
		c.leaf = leafOf(node.Type())
		if node.Index() != first {
			return nil, fmt.Errorf("column %q: its place in the schema is unclear", node.Name())
		}
		return c, nil
	}
	if err := c.group(node, c.def, c.rep); err != nil {
		return nil, err
	}
	if len(c.columns) != 1 || !c.columns[0].repeated {
		return c, nil
	}
	middle := c.columns[0]
	switch annotation(node.Type()).(type) {
	case *format.ListType:
		c.kind = list
		// A middle with one column is the three-level form, unless its name
		// says that it is itself the element (LogicalTypes.md, backward
		// compatibility).
		if len(middle.columns) == 1 && string(middle.key) != `"array":` && string(middle.key) != `"`+node.Name()+`_tuple":` {
			middle.kind = wrapper
		}
	case *format.MapType:
		if len(middle.columns) == 2 && middle.columns[0].leaf != nil && !middle.columns[1].repeated && isText(node.Columns()[0].Columns()[0].Type()) {
			c.kind, middle.kind = stringMap, mapEntries
		} else {
			c.kind = list
		}
	}
	return c, nil
}

func annotation(t parquet.Type) any {
	if l := t.LogicalType(); l != nil {
		return l.Value
	}
	return nil
}

// append appends the column's value in the row whose leaf values remain in
// leaves, and takes from them what it used.
func (c *column) append(b []byte, leaves [][]parquet.Value) ([]byte, error) {
	if c.optional || c.repeated {
		v := leaves[c.first]
		if len(v) == 0 {
			return nil, errors.New("a value is missing: the file is damaged")
		}
		if v[0].DefinitionLevel() < c.def {
			for i := c.first; i < c.first+c.leaves; i++ {
				if len(leaves[i]) > 0 {
					leaves[i] = leaves[i][1:]
				}
			}
			switch {
			case c.kind == mapEntries:
				return append(b, "{}"...), nil
			case c.repeated:
				return append(b, "[]"...), nil
			}
			return append(b, "null"...), nil
		}
	}
	if !c.repeated {
		return c.one(b, leaves)
	}
	open, end := byte('['), byte(']')
	if c.kind == mapEntries {
		open, end = '{', '}'
	}
	start := len(b)
	b = append(b, open)
	for i := 0; ; i++ {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = c.one(b, leaves); err != nil {
			return nil, err
		}
		if v := leaves[c.first]; len(v) == 0 || v[0].RepetitionLevel() != c.rep {
			b = append(b, end)
			break
		}
	}
	if c.kind != mapEntries {
		return b, nil
	}
	return appendStrict(b[:start], b[start:]) // a map may have a key twice
}

// appendStrict appends JSON as strict readers take it.
func appendStrict(b, raw []byte) ([]byte, error) {
	var v matrix.Value
	err := v.UnmarshalJSON(raw)
	return append(b, v.Raw()...), err
}

// one appends one element of the column, present.
func (c *column) one(b []byte, leaves [][]parquet.Value) ([]byte, error) {
	var err error
	switch {
	case c.leaf != nil:
		v := leaves[c.first]
		if len(v) == 0 {
			return nil, errors.New("a value is missing: the file is damaged")
		}
		leaves[c.first] = v[1:]
		if v[0].IsNull() {
			return append(b, "null"...), nil
		}
		if b, err = c.leaf(b, v[0]); err != nil {
			return nil, fmt.Errorf("column %s %w", c.key, err)
		}
		return b, nil
	case c.kind == list || c.kind == stringMap || c.kind == wrapper:
		return c.columns[0].append(b, leaves)
	case c.kind == mapEntries:
		if b, err = c.columns[0].append(b, leaves); err != nil {
			return nil, err
		}
		return c.columns[1].append(append(b, ':'), leaves)
	}
	b = append(b, '{')
	for i, sub := range c.columns {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = sub.append(append(b, sub.key...), leaves); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func isText(t parquet.Type) bool {
	switch annotation(t).(type) {
	case *format.StringType, *format.EnumType:
		return true
	}
	return false
}

// leafOf chooses how values of a type are written.
func leafOf(t parquet.Type) func([]byte, parquet.Value) ([]byte, error) {
	kind := t.Kind()
	switch a := annotation(t).(type) {
	case *format.StringType, *format.EnumType:
		return textLeaf
	case *format.JsonType:
		return jsonLeaf
	case *format.UUIDType:
		return uuidLeaf
	case *format.DecimalType:
		return decimalLeaf(kind, int(a.Scale))
	case *format.DateType:
		return func(b []byte, v parquet.Value) ([]byte, error) {
			return append(time.Unix(int64(v.Int32())*86400, 0).UTC().AppendFormat(append(b, '"'), time.DateOnly), '"'), nil
		}
	case *format.TimestampType:
		layout := "2006-01-02T15:04:05.999999999"
		if a.IsAdjustedToUTC {
			layout = time.RFC3339Nano
		}
		return timeLeaf(unitOf(a.Unit), layout)
	case *format.TimeType:
		return timeLeaf(unitOf(a.Unit), "15:04:05.999999999")
	case *format.IntType:
		if !a.IsSigned {
			return unsignedLeaf
		}
	}
	return plainLeaf
}

func textLeaf(b []byte, v parquet.Value) ([]byte, error) {
	if !utf8.Valid(v.ByteArray()) {
		return nil, errors.New("is text and holds bytes that are not UTF-8")
	}
	return jsontext.AppendString(b, v.ByteArray()), nil
}

func jsonLeaf(b []byte, v parquet.Value) ([]byte, error) {
	raw := v.ByteArray()
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, errors.New("is JSON and holds text that is not")
	}
	b, err := appendStrict(b, raw)
	if err != nil {
		return nil, fmt.Errorf("is JSON, in which %w", err)
	}
	return b, nil
}

func uuidLeaf(b []byte, v parquet.Value) ([]byte, error) {
	u := v.ByteArray()
	if len(u) != 16 {
		return nil, fmt.Errorf("is a UUID and holds %d bytes", len(u))
	}
	b = append(b, '"')
	for i, end := range []int{0, 4, 6, 8, 10, 16}[1:] {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[[]int{0, 4, 6, 8, 10}[i]:end])
	}
	return append(b, '"'), nil
}

func unitOf(u format.TimeUnit) time.Duration {
	if u.Value == nil {
		return time.Nanosecond
	}
	return u.Value.Duration()
}

func timeLeaf(unit time.Duration, layout string) func([]byte, parquet.Value) ([]byte, error) {
	perSecond := int64(time.Second / unit)
	return func(b []byte, v parquet.Value) ([]byte, error) {
		n := v.Int64()
		if v.Kind() == parquet.Int32 {
			n = int64(v.Int32())
		}
		s, rest := n/perSecond, n%perSecond
		t := time.Unix(s, rest*int64(unit)).UTC()
		return append(t.AppendFormat(append(b, '"'), layout), '"'), nil
	}
}

func unsignedLeaf(b []byte, v parquet.Value) ([]byte, error) {
	if v.Kind() == parquet.Int32 {
		return strconv.AppendUint(b, uint64(v.Uint32()), 10), nil
	}
	return strconv.AppendUint(b, v.Uint64(), 10), nil
}

func decimalLeaf(kind parquet.Kind, scale int) func([]byte, parquet.Value) ([]byte, error) {
	return func(b []byte, v parquet.Value) ([]byte, error) {
		n := new(big.Int)
		switch kind {
		case parquet.Int32:
			n.SetInt64(int64(v.Int32()))
		case parquet.Int64:
			n.SetInt64(v.Int64())
		default: // two's complement, big-endian
			raw := v.ByteArray()
			n.SetBytes(raw)
			if len(raw) > 0 && raw[0] >= 0x80 {
				n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(raw))))
			}
		}
		if scale <= 0 {
			return n.Append(b, 10), nil
		}
		if n.Sign() < 0 {
			b = append(b, '-')
			n.Neg(n)
		}
		digits := n.Append(nil, 10)
		for len(digits) <= scale {
			digits = append([]byte{'0'}, digits...)
		}
		b = append(b, digits[:len(digits)-scale]...)
		b = append(b, '.')
		return append(b, digits[len(digits)-scale:]...), nil
	}
}

func plainLeaf(b []byte, v parquet.Value) ([]byte, error) {
	switch v.Kind() {
	case parquet.Boolean:
		return strconv.AppendBool(b, v.Boolean()), nil
	case parquet.Int32:
		return strconv.AppendInt(b, int64(v.Int32()), 10), nil
	case parquet.Int64:
		return strconv.AppendInt(b, v.Int64(), 10), nil
	case parquet.Int96: // nanoseconds of the day, then the Julian day
		x := v.Int96()
		nanos := int64(uint64(x[1])<<32 | uint64(x[0]))
		t := time.Unix((int64(x[2])-2440588)*86400, nanos).UTC()
		return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"'), nil
	case parquet.Float:
		f := v.Float()
		if f != f || f-f != 0 {
			return append(b, "null"...), nil
		}
		return strconv.AppendFloat(b, float64(f), 'g', -1, 32), nil
	case parquet.Double:
		return appendFloat(b, v.Double()), nil
	case parquet.ByteArray, parquet.FixedLenByteArray:
		raw := v.ByteArray()
		if utf8.Valid(raw) && v.Kind() == parquet.ByteArray {
			return jsontext.AppendString(b, raw), nil
		}
		b = base64.StdEncoding.AppendEncode(append(b, '"'), raw)
		return append(b, '"'), nil
	}
	return nil, fmt.Errorf("has a type that is not known (%s)", v.Kind())
}
