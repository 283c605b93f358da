package limit

// moments are sums over calls: of their work w, the seconds t they took, and x,
// the logarithm of the calls in flight when they were sent.
type moments struct{ n, w, t, x, ww, wt, tt float64 }

func (m *moments) add(w, t, x float64) {
	m.n++
	m.w += w
	m.t += t
	m.x += x
	m.ww += w * w
	m.wt += w * t
	m.tt += t * t
}

// line is the time that a call with work w takes, by a line through the calls,
// the variance of that, and the line's slope: 0 where work explains little.
func (m *moments) line(w float64) (t, rest, slope float64) {
	ww := m.ww - m.w*m.w/m.n
	wt := m.wt - m.w*m.t/m.n
	tt := m.tt - m.t*m.t/m.n
	if ww > 1e-9*m.ww && wt > 0 && wt*wt > 0.25*ww*tt {
		slope = wt / ww
	}
	off := w - m.w/m.n
	rest = max(tt-slope*wt, 0) / (m.n - 2) / m.n
	if slope > 0 {
		rest *= 1 + off*off*m.n/ww
	}
	return max(m.t/m.n+slope*off, 1e-9), rest, slope
}

func (m *moments) plus(o *moments) (sum moments) {
	return moments{m.n + o.n, m.w + o.w, m.t + o.t, m.x + o.x, m.ww + o.ww, m.wt + o.wt, m.tt + o.tt}
}

func (m moments) times(f float64) *moments {
	return &moments{m.n * f, m.w * f, m.t * f, m.x * f, m.ww * f, m.wt * f, m.tt * f}
}
