//go:build matrix_no_gemini

package registry

func vendorGemini(r *Registry) {
	leftOut(r, "gemini", "matrix_no_gemini")
	leftOut(r, "vertex", "matrix_no_gemini")
}
