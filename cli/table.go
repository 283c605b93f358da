package cli

import (
	"encoding/json"
	"io"
	"strings"
)

// printJSON prints v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// align sets columns: the first to the left, the others to the right.
func align(rows [][]string) []string {
	return columns(rows, true, func(column int) bool { return column > 0 })
}

// columns sets rows in columns, those for which right holds to the right. Unless all
// are wanted, those that are empty below their head are left out. A row of one cell is
// a note, which runs over all columns but the first two.
func columns(rows [][]string, all bool, right func(column int) bool) []string {
	width := make([]int, len(rows[0]))
	for i := range width {
		for _, r := range rows[1:] {
			if len(r) > 1 && i < len(r) {
				width[i] = max(width[i], displayWidth(r[i]))
			}
		}
		if all || width[i] > 0 {
			width[i] = max(width[i], displayWidth(rows[0][i]))
		}
	}
	lines := make([]string, len(rows))
	for n, r := range rows {
		if len(r) == 1 {
			lines[n] = strings.Repeat(" ", width[0]+width[1]+4) + r[0]
			continue
		}
		var cells []string
		for i, c := range r {
			if pad := strings.Repeat(" ", max(0, width[i]-displayWidth(c))); width[i] == 0 {
				continue
			} else if right(i) {
				cells = append(cells, pad+c)
			} else {
				cells = append(cells, c+pad)
			}
		}
		lines[n] = strings.TrimRight(strings.Join(cells, "  "), " ")
	}
	return lines
}

// left has all columns to the left.
func left(int) bool { return false }

// head dims the first line of a table.
func (col color) head(lines []string) []string {
	lines[0] = col.dim(lines[0])
	return lines
}
