package sagemaker

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

const (
	keyID  = "AKIDEXAMPLE0000000"
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

// TestMain gives an environment as on a machine that has AWS credentials and
// nothing else of AWS.
func TestMain(m *testing.M) {
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": keyID, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "", "AWS_REGION": "us-west-2",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_PROFILE": "", "AWS_BEARER_TOKEN_BEDROCK": "", "AWS_ENDPOINT_URL": "",
		"AWS_MAX_ATTEMPTS": "5", "AWS_RETRY_MODE": "adaptive",
	} {
		if err := os.Setenv(k, v); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}
