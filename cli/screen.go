package cli

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"
)

// screen redraws a block of lines in place at the bottom of a terminal. It
// takes no keys and leaves the terminal's modes alone, so that Ctrl-C stays a
// signal and a killed process leaves nothing behind but a hidden cursor.
type screen struct {
	w     io.Writer
	size  func() (width, height int)
	drawn []int // widths of the lines drawn last, above the cursor
}

// Control sequences. Synchronized output keeps a frame from being shown half
// drawn; terminals that do not know it pass over it.
const (
	beginFrame = "\x1b[?2026h\x1b[?25l"
	endFrame   = "\x1b[?2026l"
	showCursor = "\x1b[?25h"
	eraseLine  = "\x1b[K"
	eraseBelow = "\x1b[J"
)

// draw replaces the block. Lines are cut to the terminal's width, and the
// block to its height.
func (s *screen) draw(lines []string) {
	width, height := s.size()
	if len(lines) > height-1 {
		lines = lines[:max(1, height-1)]
	}
	var b bytes.Buffer
	b.WriteString(beginFrame)
	s.home(&b, width)
	for _, l := range lines {
		l = ansi.Truncate(l, max(1, width-1), "…")
		b.WriteString(l + eraseLine + "\n")
		s.drawn = append(s.drawn, ansi.StringWidth(l))
	}
	b.WriteString(eraseBelow + endFrame)
	_, _ = s.w.Write(b.Bytes()) // a terminal that has gone away does not end a run
}

// print writes a line above the block, which comes back with the next draw.
func (s *screen) print(line string) {
	s.clear(line + "\n")
}

// close takes the block away and brings the cursor back.
func (s *screen) close() { s.clear(showCursor) }

// clear writes something in the place of the block.
func (s *screen) clear(instead string) {
	width, _ := s.size()
	var b bytes.Buffer
	s.home(&b, width)
	b.WriteString(eraseBelow + instead)
	_, _ = s.w.Write(b.Bytes())
}

// home moves to the first line of the block and forgets it. In a terminal that
// has become narrower, lines have been broken into several.
func (s *screen) home(b *bytes.Buffer, width int) {
	b.WriteByte('\r')
	up := 0
	for _, w := range s.drawn {
		up += max(1, (w+width-1)/width)
	}
	if up > 0 {
		b.WriteString("\x1b[" + strconv.Itoa(up) + "A")
	}
	s.drawn = s.drawn[:0]
}

func displayWidth(s string) int { return ansi.StringWidth(s) }

// terminal is what a writer can show.
type terminal struct {
	file *os.File // nil where the writer is not a terminal
	dumb bool     // it cannot move the cursor
}

func terminalOf(w io.Writer) terminal {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return terminal{}
	}
	return terminal{file: f, dumb: os.Getenv("TERM") == "dumb"}
}

func (t terminal) live() bool { return t.file != nil && !t.dumb }

// size is 80 by 24 where it cannot be told.
func (t terminal) size() (width, height int) {
	if t.file != nil {
		if w, h, err := term.GetSize(int(t.file.Fd())); err == nil && w > 0 && h > 0 {
			return w, h
		}
	}
	return 80, 24
}

// bar draws how much of a whole is there.
func bar(col color, part, whole int64, width int) string {
	full, partly := 0, ""
	if whole > 0 {
		eighths := int(float64(min(part, whole)) / float64(whole) * float64(width) * 8)
		full = eighths / 8
		if eighths%8 > 0 {
			partly = string([]rune("▏▎▍▌▋▊▉")[eighths%8-1])
		}
	}
	empty := width - full - len([]rune(partly))
	return "▕" + col.green(strings.Repeat("█", full)+partly) + strings.Repeat(" ", empty) + "▏"
}
