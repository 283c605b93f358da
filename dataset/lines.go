package dataset

import (
	"bytes"
	"errors"
	"io"
)

const (
	bufferBytes = 256 << 10
	// maxRecord is the longest row that is read; a longer one is malformed.
	// A line of which is kept no more than to show where it begins.
	maxRecord = 64 << 20
)

var bom = []byte("\xef\xbb\xbf")

// lines reads lines of any length and says where it is. What it holds of a
// line is bounded by max.
type lines struct {
	r          io.Reader
	buf        []byte
	start, end int    // buf[start:end] is read and not yet handed out
	long       []byte // the beginning of a line that buf did not hold whole
	err        error  // what r ended with
	max        int
	cr         bool // a carriage return that no newline follows ends a line, too
	sep        byte // what ended the last line

	offset int64 // of the first byte after the last line
	n      int64 // lines before offset
}

func newLines(r io.Reader) *lines {
	return &lines{r: r, buf: make([]byte, bufferBytes), max: maxRecord}
}

// next returns the next line without its newline, until the next call. Of a
// line longer than max it returns the beginning, and tooLong. The error is
// io.EOF at the end; a line that another error cuts is not returned.
func (l *lines) next() (line []byte, tooLong bool, err error) {
	if cap(l.long) > 1<<20 {
		l.long = nil
	}
	l.long = l.long[:0]
	var size int64 // bytes taken out of buf for this line
	for {
		if i := l.ending(); i >= 0 {
			line = l.take(l.start+i, &size, &tooLong)
			l.sep = l.buf[l.start]
			l.start++
			size++
			break
		}
		if l.err != nil {
			if l.err != io.EOF || size+int64(l.end-l.start) == 0 {
				return nil, false, l.err
			}
			line = l.take(l.end, &size, &tooLong)
			break
		}
		l.spill(&size, &tooLong)
		l.fill()
	}
	if l.offset == 0 {
		line = bytes.TrimPrefix(line, bom)
	}
	l.offset += size
	l.n++
	return line, tooLong, nil
}

// ending is where the line ends in buf[start:end]; -1 where that is not known.
func (l *lines) ending() int {
	b := l.buf[l.start:l.end]
	if !l.cr {
		return bytes.IndexByte(b, '\n')
	}
	for i, c := range b {
		switch {
		case c == '\n':
			return i
		case c != '\r':
		case i+1 < len(b):
			if b[i+1] != '\n' {
				return i
			}
		case l.err == io.EOF:
			return i
		}
	}
	return -1
}

// take hands out the line that ends before buf[end].
func (l *lines) take(end int, size *int64, tooLong *bool) []byte {
	if *size == 0 && end-l.start <= l.max {
		line := l.buf[l.start:end]
		*size = int64(end - l.start)
		l.start = end
		return line
	}
	l.keep(l.buf[l.start:end], tooLong)
	*size += int64(end - l.start)
	l.start = end
	return l.long
}

// spill moves all of buf to long.
func (l *lines) spill(size *int64, tooLong *bool) {
	if l.start > 0 && l.end-l.start < len(l.buf)/2 && *size == 0 { // room enough in buf
		l.end = copy(l.buf, l.buf[l.start:l.end])
		l.start = 0
		return
	}
	if l.start == 0 && l.end < len(l.buf) {
		return
	}
	end := l.end
	if l.cr && l.buf[end-1] == '\r' { // what follows it says what it is
		end--
	}
	l.keep(l.buf[l.start:end], tooLong)
	*size += int64(end - l.start)
	l.start, l.end = 0, copy(l.buf, l.buf[end:l.end])
}

func (l *lines) keep(b []byte, tooLong *bool) {
	if *tooLong {
		return
	}
	if len(l.long)+len(b) <= l.max {
		l.long = append(l.long, b...)
		return
	}
	*tooLong = true
	head := min(2*shownBytes, l.max)
	if n := head - len(l.long); n > 0 {
		l.long = append(l.long, b[:min(n, len(b))]...)
	} else {
		l.long = bytes.Clone(l.long[:head])
	}
}

// fill reads into the free end of buf.
func (l *lines) fill() {
	for range 100 {
		n, err := l.r.Read(l.buf[l.end:])
		l.end += n
		if err != nil {
			l.err = err
			return
		}
		if n > 0 {
			return
		}
	}
	l.err = io.ErrNoProgress
}

// errTorn is the error of a place that is no longer between two lines.
var errTorn = errors.New("the place where reading goes on is in the middle of a line: rows that were read before have changed, or others stand before them; restore the file and append rows at its end, or start a new run")

// seek moves forward to offset, before which there are n lines. The error is
// io.EOF when there is less, and errTorn where no line ends at offset.
func (l *lines) seek(offset, n int64) error {
	before := offset - 1 // the last byte of the line that was read
	if s, ok := l.r.(io.Seeker); ok {
		switch _, err := s.Seek(before, io.SeekStart); {
		case err == nil:
			l.start, l.end, l.err, l.offset = 0, 0, nil, before
		case !errors.Is(err, errors.ErrUnsupported):
			return err
		}
	}
	switch {
	case offset < l.offset:
		return errors.New("the saved position is before the first row: the file has changed")
	case offset == l.offset:
		l.n = n
		return nil
	}
	for l.offset < before || l.end-l.start < 2 {
		take := min(int64(l.end-l.start), before-l.offset)
		l.start += int(take)
		if l.offset += take; l.offset < before || l.end-l.start < 2 {
			if l.err != nil {
				break
			}
			l.start, l.end = 0, copy(l.buf, l.buf[l.start:l.end])
			l.fill()
		}
	}
	around := l.buf[l.start:min(l.start+2, l.end)]
	switch {
	case len(around) < 2 && l.err != io.EOF:
		return l.err
	case l.offset < before || len(around) == 0:
		return io.EOF
	case !endsLine(around[0]) && len(around) == 2 && !endsLine(around[1]): // the last line of a file may have no end
		return errTorn
	}
	l.start++
	l.offset, l.n = offset, n
	return nil
}

func endsLine(b byte) bool { return b == '\n' || b == '\r' }
