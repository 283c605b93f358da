package inside

import "encoding/json"

// A Launch is what is done in the place of a sandbox's first process before that is started, in its process: what has
// to be done from outside, and bubblewrap has no flag for. Mounts are made in the process's own mount namespace, which
// its parent gave it, so that they end with it.
type Launch struct {
	Cgroups []string // files cgroup.procs, which the process is written into
	UID     int      // whom the process becomes, where it is root; 0: nobody else
	GID     int

	At        string   // an existing folder, over which a file system in memory is mounted. Empty: nothing is mounted
	Size      int64    // bytes of that; 0: half of the machine's memory
	Lower     []string // folders, the topmost first, that are seen at At/root, and not written to
	Upper     string   // folder for what is written there instead. Empty: in the file system in memory
	Work      string   // folder beside Upper, for the kernel
	UserXattr bool     // whoever mounts is not root outside
	Dir       string   // folder in At/root that the process's user shall have; made where it is not there

	Args []string // the program, by its path, and its arguments
}

// Arg is the one argument behind "launch" with which cmd/inside does it.
func (l Launch) Arg() string {
	b, err := json.Marshal(l)
	if err != nil { // strings and numbers
		panic(err)
	}
	return string(b)
}
