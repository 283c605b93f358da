package inside

import (
	"reflect"
	"testing"
)

func TestLaunchArgs(t *testing.T) {
	for _, l := range []Launch{
		{Program: []string{"/bin/true"}},
		{Cgroups: []string{"/a", "/b"}, UID: 1, GID: 2, At: "/m", Size: 3, In: "/l", Lower: []string{"x", "--"}, Upper: "u", Work: "w", UserXattr: true, Dir: "/d", Program: []string{"p", "--", "-at"}},
	} {
		args := l.Args()
		got, err := ParseLaunch(args[1:])
		if args[0] != "launch" || err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%q: got %+v, %v, want %+v", args, got, err, l)
		}
	}
	for _, args := range [][]string{nil, {"-at"}, {"-uid", "x", "--", "p"}, {"-none", "1", "--", "p"}, {"--"}} {
		if _, err := ParseLaunch(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
