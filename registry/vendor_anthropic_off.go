//go:build matrix_no_anthropic

package registry

func vendorAnthropic(r *Registry) {
	leftOut(r, "anthropic", "matrix_no_anthropic")
}
