package llm

import (
	"slices"
	"testing"
)

// Each rule of the table, by a response that it decides. What leads there over
// HTTP is tested with the drivers.
func TestFates(t *testing.T) {
	rows := []struct {
		status    int
		code, typ string
		kind      Kind
	}{
		{429, "insufficient_quota", "", Fatal},
		{400, "", "authentication_error", Fatal},
		{400, "FAILED_PRECONDITION", "", Fatal},
		{403, "PERMISSION_DENIED", "", Fatal},
		{400, "model_not_found", "", Fatal},
		{400, "input_tokens", "BadRequestError", Context},
		{403, "content_filter", "", Refused},
		{400, "", "rate_limit_error", Capacity},
		{0, "ThrottlingException", "", Capacity},
		{403, "AccessDeniedException", "", Fatal},
		{400, "ServiceQuotaExceededException", "", Fatal},
		{403, "RequestExpired", "", Fault},
		{0, "ModelTimeoutException", "", Timeout},
		{0, "InternalServerException", "", Fault},
		{0, "StreamBroken", "", Transport},
		{500, "ValidationException", "", Refused},
		{302, "", "", Fatal},
		{401, "", "", Fatal},
		{402, "", "", Fatal},
		{403, "", "", Refused},
		{404, "", "NotFoundError", Fatal},
		{405, "", "", Fatal},
		{407, "", "", Fatal},
		{408, "", "", Timeout},
		{409, "", "", Capacity},
		{425, "", "", Capacity},
		{429, "", "", Capacity},
		{499, "", "", Transport},
		{422, "", "", Refused},
		{501, "", "", Fatal},
		{502, "", "", Transport},
		{503, "", "", Capacity},
		{504, "", "", Timeout},
		{505, "", "", Fatal},
		{529, "", "", Capacity},
		{522, "", "", Transport},
		{500, "", "", Fault},
	}
	hit := make([]bool, len(rules))
	for _, r := range rows {
		if kind, _ := Judge(r.status, r.code, r.typ); kind != r.kind {
			t.Errorf("%d %s %s: got %v, want %v", r.status, r.code, r.typ, kind, r.kind)
		}
		hit[slices.IndexFunc(rules, func(u rule) bool { return u.matches(r.status, r.code, r.typ) })] = true
	}
	for i, ok := range hit {
		if !ok {
			t.Errorf("no row for the rule %+v", rules[i])
		}
	}
	for _, u := range rules { // a code that stands in two rules would have the fate of the first
		for _, code := range u.codes {
			if kind, hint := Judge(u.from, code, ""); kind != u.kind || hint != u.hint {
				t.Errorf("%s: got %v (%s), want %v (%s)", code, kind, hint, u.kind, u.hint)
			}
		}
	}
	if kind, hint := Judge(600, "", "odd"); kind != Fault || hint != "" {
		t.Errorf("what is not in the table: got %v (%s), want a fault", kind, hint)
	}
}
