package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// commas writes a number with commas: 12,345.
func commas[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	digits := strings.TrimPrefix(s, "-")
	sign := s[:len(s)-len(digits)]
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// decimal writes a rate or a mean with as many digits as say something.
func decimal(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 1000 || x <= -1000:
		return commas(int64(x + 0.5))
	case x >= 100 || x <= -100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 10 || x <= -10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case x >= 0.01 || x <= -0.01:
		return strconv.FormatFloat(x, 'f', 2, 64)
	}
	return strconv.FormatFloat(x, 'g', 2, 64)
}

// pace is a rate of tasks; a slow one is told as seconds a task.
func pace(perSecond float64) string {
	switch {
	case perSecond <= 0:
		return "-/s"
	case perSecond < 0.95:
		return decimal(1/perSecond) + " s/task"
	}
	return decimal(perSecond) + "/s"
}

// clock writes a duration as 12s, 3:07 or 1:02:03, and days above.
func clock(d time.Duration) string {
	s := int64(d.Seconds() + 0.5)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%dd %dh", s/86400, s/3600%24)
}

// plural counts things: "1 task", "2 tasks".
func plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return commas(n) + " " + thing + "s"
}

// align sets columns: the first to the left, the others to the right.
func align(rows [][]string) []string {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], displayWidth(c))
		}
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		var b strings.Builder
		for j, c := range r {
			pad := strings.Repeat(" ", width[j]-displayWidth(c))
			if j == 0 {
				b.WriteString(c + pad)
			} else {
				b.WriteString("  " + pad + c)
			}
		}
		lines[i] = strings.TrimRight(b.String(), " ")
	}
	return lines
}
