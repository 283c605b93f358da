//go:build matrix_no_aws

package registry

func vendorAWS(r *Registry) {
	leftOut(r, "bedrock", "matrix_no_aws")
	leftOut(r, "sagemaker", "matrix_no_aws")
}
