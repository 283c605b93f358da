package dataset

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go/deprecated"
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
//	other binary        a string where it is UTF-8, else (or where it begins so itself) data:;base64, and its base64
//	BSON, shapes        base64; intervals likewise
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

	leaves []*leaf // in order
	write  writer  // of a column of values
	isText bool

	columns []*column // of a group
	kind    groupKind
}

// writer appends a value as JSON. Its error goes on after the column's name.
type writer func(b, value []byte) ([]byte, error)

type groupKind int

const (
	object     groupKind = iota
	list                 // a group of one repeated column, which has one column
	stringMap            // a group of a repeated {key, value}
	wrapper              // the repeated middle of a list
	mapEntries           // the repeated middle of a stringMap
)

// columnsOf makes the tree of columns out of a schema, its elements depth
// first.
func columnsOf(schema []format.SchemaElement) (*column, []*leaf, error) {
	if len(schema) == 0 {
		return nil, nil, damagef("there is no schema")
	}
	t := tree{rest: schema[1:]}
	c := &column{}
	if err := t.group(c, &schema[0]); err != nil {
		return nil, nil, err
	}
	if len(t.rest) > 0 {
		return nil, nil, damagef("the schema has columns that belong to no group")
	}
	return c, c.leaves, nil
}

// tree is a schema being read.
type tree struct {
	rest  []format.SchemaElement
	depth int
}

// maxLevel is the deepest nesting that is read.
const maxLevel = 100

func (t *tree) group(c *column, e *format.SchemaElement) error {
	if t.depth++; t.depth > maxLevel {
		return fmt.Errorf("columns are nested more than %d deep", maxLevel)
	}
	for range e.NumChildren.V {
		sub, err := t.column(c.def, c.rep)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.columns, func(o *column) bool { return bytes.Equal(o.key, sub.key) }) {
			return fmt.Errorf("two columns are both named %s rename one of them", sub.key)
		}
		c.columns = append(c.columns, sub)
		c.leaves = append(c.leaves, sub.leaves...)
	}
	t.depth--
	return nil
}

func (t *tree) column(def, rep int) (*column, error) {
	if len(t.rest) == 0 {
		return nil, damagef("the schema ends within a group")
	}
	e := &t.rest[0]
	t.rest = t.rest[1:]
	c := &column{
		key:      append(jsontext.AppendString(nil, e.Name), ':'),
		optional: e.RepetitionType.V == format.Optional, repeated: e.RepetitionType.V == format.Repeated, def: def, rep: rep,
	}
	if c.optional || c.repeated {
		c.def++
	}
	if c.repeated {
		c.rep++
	}
	if e.Type.Valid {
		l, err := newLeaf(e, c.def, c.rep)
		c.leaves, c.write, c.isText = []*leaf{l}, writerOf(e), isText(e)
		return c, err
	}
	if err := t.group(c, e); err != nil {
		return nil, err
	}
	if len(c.columns) == 0 {
		return nil, fmt.Errorf("column %q is a group of no columns: leave it out", e.Name)
	}
	if len(c.columns) != 1 || !c.columns[0].repeated {
		return c, nil
	}
	middle := c.columns[0]
	switch annotation(e).(type) {
	case *format.ListType:
		c.kind = list
		// A middle with one column is the three-level form, unless its name
		// says that it is itself the element (LogicalTypes.md, backward
		// compatibility).
		if len(middle.columns) == 1 && string(middle.key) != `"array":` && string(middle.key) != `"`+e.Name+`_tuple":` {
			middle.kind = wrapper
		}
	case *format.MapType:
		if len(middle.columns) == 2 && middle.columns[0].isText && !middle.columns[1].repeated {
			c.kind, middle.kind = stringMap, mapEntries
		} else {
			c.kind = list
		}
	}
	return c, nil
}

func newLeaf(e *format.SchemaElement, def, rep int) (*leaf, error) {
	l := &leaf{name: e.Name, kind: e.Type.V, maxDef: def, maxRep: rep}
	switch l.kind {
	case format.Boolean:
		l.width = 1
	case format.Int32, format.Float:
		l.width = 4
	case format.Int64, format.Double:
		l.width = 8
	case format.Int96:
		l.width = 12
	case format.ByteArray:
	case format.FixedLenByteArray:
		if l.width = int(e.TypeLength.V); l.width <= 0 {
			return nil, fmt.Errorf("column %q has values of %d bytes", e.Name, l.width)
		}
	default:
		return nil, fmt.Errorf("column %q has a type that is not known (%d)", e.Name, l.kind)
	}
	return l, nil
}

// annotation is what the values of a column mean: its logical type, or that
// which its older converted type stands for. It is nil where there is none.
func annotation(e *format.SchemaElement) any {
	if e.LogicalType.Value != nil {
		return e.LogicalType.Value
	}
	if !e.ConvertedType.Valid {
		return nil
	}
	millis, micros := format.TimeUnit{Value: &format.MilliSeconds{}}, format.TimeUnit{Value: &format.MicroSeconds{}}
	switch e.ConvertedType.V {
	case deprecated.UTF8:
		return &format.StringType{}
	case deprecated.Enum:
		return &format.EnumType{}
	case deprecated.Map, deprecated.MapKeyValue:
		return &format.MapType{}
	case deprecated.List:
		return &format.ListType{}
	case deprecated.Decimal:
		return &format.DecimalType{Scale: e.Scale.V, Precision: e.Precision.V}
	case deprecated.Date:
		return &format.DateType{}
	case deprecated.TimeMillis:
		return &format.TimeType{IsAdjustedToUTC: true, Unit: millis}
	case deprecated.TimeMicros:
		return &format.TimeType{IsAdjustedToUTC: true, Unit: micros}
	case deprecated.TimestampMillis:
		return &format.TimestampType{IsAdjustedToUTC: true, Unit: millis}
	case deprecated.TimestampMicros:
		return &format.TimestampType{IsAdjustedToUTC: true, Unit: micros}
	case deprecated.Uint8, deprecated.Uint16, deprecated.Uint32, deprecated.Uint64:
		return &format.IntType{}
	case deprecated.Json:
		return &format.JsonType{}
	case deprecated.Bson:
		return &format.BsonType{}
	case deprecated.Interval:
		return deprecated.Interval
	}
	return nil
}

// append appends the column's value in the row being read.
func (c *column) append(b []byte) ([]byte, error) {
	if c.optional || c.repeated {
		def, err := c.leaves[0].def()
		if err != nil {
			return nil, err
		}
		if def < c.def {
			for _, l := range c.leaves {
				if _, _, err := l.take(); err != nil {
					return nil, err
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
		return c.one(b)
	}
	open, end := byte('['), byte(']')
	if c.kind == mapEntries {
		open, end = '{', '}'
	}
	start := len(b)
	b = append(b, open)
	for i := 0; ; i++ {
		b = jsontext.Separate(b, i)
		var err error
		if b, err = c.one(b); err != nil {
			return nil, err
		}
		if rep, err := c.leaves[0].rep(); err != nil {
			return nil, err
		} else if rep != c.rep {
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
func (c *column) one(b []byte) ([]byte, error) {
	var err error
	switch {
	case c.write != nil:
		v, ok, err := c.leaves[0].take()
		switch {
		case err != nil:
			return nil, err
		case !ok:
			return append(b, "null"...), nil
		}
		if b, err = c.write(b, v); err != nil {
			return nil, fmt.Errorf("column %s %w", c.key, err)
		}
		return b, nil
	case c.kind == list || c.kind == stringMap || c.kind == wrapper:
		return c.columns[0].append(b)
	case c.kind == mapEntries:
		if b, err = c.columns[0].append(b); err != nil {
			return nil, err
		}
		return c.columns[1].append(append(b, ':'))
	}
	b = append(b, '{')
	for i, sub := range c.columns {
		if b, err = sub.append(append(jsontext.Separate(b, i), sub.key...)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func isText(e *format.SchemaElement) bool {
	switch annotation(e).(type) {
	case *format.StringType, *format.EnumType:
		return true
	}
	return false
}

// writerOf chooses how the values of a column are written.
func writerOf(e *format.SchemaElement) writer {
	kind := e.Type.V
	whole := kind == format.Int32 || kind == format.Int64
	switch a := annotation(e).(type) {
	case *format.StringType, *format.EnumType:
		return writeText
	case *format.JsonType:
		return writeJSON
	case *format.UUIDType:
		return writeUUID
	case *format.DecimalType:
		return decimalWriter(whole, int(a.Scale))
	case *format.DateType:
		return writeDate
	case *format.TimestampType:
		layout := "2006-01-02T15:04:05.999999999"
		if a.IsAdjustedToUTC {
			layout = time.RFC3339Nano
		}
		return timeWriter(unitOf(a.Unit), layout)
	case *format.TimeType:
		return timeWriter(unitOf(a.Unit), "15:04:05.999999999")
	case *format.IntType:
		if !a.IsSigned && whole {
			return writeUnsigned
		}
	case *format.Float16Type:
		return writeHalf
	case deprecated.ConvertedType, *format.BsonType, *format.GeometryType, *format.GeographyType: // an interval is three numbers
		return writeBase64
	}
	switch kind {
	case format.Boolean:
		return func(b, v []byte) ([]byte, error) { return strconv.AppendBool(b, v[0] != 0), nil }
	case format.Int32, format.Int64:
		return func(b, v []byte) ([]byte, error) { return strconv.AppendInt(b, integer(v), 10), nil }
	case format.Int96:
		return writeInt96
	case format.Float:
		return func(b, v []byte) ([]byte, error) {
			return appendReal(b, float64(math.Float32frombits(binary.LittleEndian.Uint32(v))), 32), nil
		}
	case format.Double:
		return func(b, v []byte) ([]byte, error) {
			return appendReal(b, math.Float64frombits(binary.LittleEndian.Uint64(v)), 64), nil
		}
	}
	return writeBinary
}

// integer is a little-endian one of 4 or 8 bytes.
func integer(v []byte) int64 {
	if len(v) == 4 {
		return int64(int32(binary.LittleEndian.Uint32(v)))
	}
	return int64(binary.LittleEndian.Uint64(v))
}

// appendReal appends a float so that readers see one: with a point or an
// exponent. What JSON cannot say is null.
func appendReal(b []byte, f float64, bits int) []byte {
	if f-f != 0 {
		return append(b, "null"...)
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, 'g', -1, bits)
	if !bytes.ContainsAny(b[start:], ".e") {
		b = append(b, ".0"...)
	}
	return b
}

// writeHalf writes a float of 16 bits (IEEE 754 binary16), all its digits.
func writeHalf(b, v []byte) ([]byte, error) {
	if len(v) != 2 {
		return nil, fmt.Errorf("is a float of 16 bits and holds %d bytes", len(v))
	}
	h := binary.LittleEndian.Uint16(v)
	exponent, fraction := int(h>>10&0x1f), float64(h&0x3ff)
	f := math.Ldexp(1024+fraction, exponent-25)
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 0x1f:
		f = math.Inf(1) // or none at all
	}
	if h>>15 == 1 {
		f = -f
	}
	return appendReal(b, f, 64), nil
}

func writeText(b, v []byte) ([]byte, error) {
	if !utf8.Valid(v) {
		return nil, errors.New("is text and holds bytes that are not UTF-8")
	}
	return jsontext.AppendString(b, v), nil
}

func writeJSON(b, v []byte) ([]byte, error) {
	if !utf8.Valid(v) || !json.Valid(v) {
		return nil, errors.New("is JSON and holds text that is not")
	}
	b, err := appendStrict(b, v)
	if err != nil {
		return nil, fmt.Errorf("is JSON, in which %w", err)
	}
	return b, nil
}

func writeBase64(b, v []byte) ([]byte, error) {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), v), '"'), nil
}

// notText begins the string of a value of a binary column that is not text.
const notText = "data:;base64,"

func writeBinary(b, v []byte) ([]byte, error) {
	if utf8.Valid(v) && !bytes.HasPrefix(v, []byte(notText)) {
		return jsontext.AppendString(b, v), nil
	}
	return append(base64.StdEncoding.AppendEncode(append(b, `"`+notText...), v), '"'), nil
}

func writeUUID(b, u []byte) ([]byte, error) {
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

func writeDate(b, v []byte) ([]byte, error) {
	return append(time.Unix(integer(v)*86400, 0).UTC().AppendFormat(append(b, '"'), time.DateOnly), '"'), nil
}

func timeWriter(unit time.Duration, layout string) writer {
	perSecond := int64(time.Second / unit)
	return func(b, v []byte) ([]byte, error) {
		n := integer(v)
		t := time.Unix(n/perSecond, n%perSecond*int64(unit)).UTC()
		return append(t.AppendFormat(append(b, '"'), layout), '"'), nil
	}
}

// writeInt96 writes a time of older writers: nanoseconds of the day, then the
// Julian day.
func writeInt96(b, v []byte) ([]byte, error) {
	day := int64(binary.LittleEndian.Uint32(v[8:]))
	t := time.Unix((day-2440588)*86400, int64(binary.LittleEndian.Uint64(v))).UTC()
	return append(t.AppendFormat(append(b, '"'), time.RFC3339Nano), '"'), nil
}

func writeUnsigned(b, v []byte) ([]byte, error) {
	if len(v) == 4 {
		return strconv.AppendUint(b, uint64(binary.LittleEndian.Uint32(v)), 10), nil
	}
	return strconv.AppendUint(b, binary.LittleEndian.Uint64(v), 10), nil
}

func decimalWriter(whole bool, scale int) writer {
	return func(b, v []byte) ([]byte, error) {
		n := new(big.Int)
		if whole {
			n.SetInt64(integer(v))
		} else { // two's complement, big-endian
			n.SetBytes(v)
			if len(v) > 0 && v[0] >= 0x80 {
				n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(v))))
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
