// Package human writes numbers and durations as people read them.
package human

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Commas writes a number with commas: 12,345.
func Commas[N int | int64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	digits := strings.TrimPrefix(s, "-")
	sign := s[:len(s)-len(digits)]
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// Decimal writes a rate or a mean with as many digits as say something.
func Decimal(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 1000 || x <= -1000:
		return Commas(int64(x + 0.5))
	case x >= 100 || x <= -100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 10 || x <= -10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case x >= 0.01 || x <= -0.01:
		return strconv.FormatFloat(x, 'f', 2, 64)
	}
	return strconv.FormatFloat(x, 'g', 2, 64)
}

// Pace is a rate of tasks; a slow one is told as seconds a task.
func Pace(perSecond float64) string {
	switch {
	case perSecond <= 0:
		return "-/s"
	case perSecond < 0.95:
		return Decimal(1/perSecond) + " s/task"
	}
	return Decimal(perSecond) + "/s"
}

// Clock writes a duration as 12s, 3:07 or 1:02:03, and days above.
func Clock(d time.Duration) string {
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

// Plural counts things: "1 task", "2 tasks".
func Plural(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return Commas(n) + " " + thing + "s"
}

// Is is the verb behind a count of things: " is" or " are".
func Is(n int64) string {
	if n == 1 {
		return " is"
	}
	return " are"
}

// Short writes a count as 950, 12.3k, 4.56M.
func Short[N int64 | float64](n N) string {
	for _, u := range []struct {
		n      float64
		suffix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if x := float64(n) / u.n; x >= 1 {
			return Decimal(x) + u.suffix
		}
	}
	return Decimal(float64(n))
}

// Duration is milliseconds as people say them.
func Duration(ms float64) string {
	switch {
	case ms < 0.005:
		return "0 ms"
	case ms < 1:
		return strconv.FormatFloat(ms, 'f', 2, 64) + " ms"
	case ms < 999.5:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	case ms < 99_950:
		return strconv.FormatFloat(ms/1e3, 'f', 1, 64) + " s"
	case ms < 7_200_000:
		return fmt.Sprintf("%d m %02d s", int(ms/60e3), int(ms/1e3)%60)
	}
	return fmt.Sprintf("%d h %02d m", int(ms/3600e3), int(ms/60e3)%60)
}

// Percent rounds down, so that 100% means all.
func Percent(part, whole int64) string {
	if whole == 0 {
		return "100%"
	}
	return fmt.Sprintf("%d%%", int(float64(part)/float64(whole)*100))
}
