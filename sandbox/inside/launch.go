package inside

import (
	"errors"
	"strconv"
)

// A Launch is what is done in the place of a sandbox's first process before that is started, in its process: what has
// to be done from outside, and bubblewrap has no flag for. Mounts are made in the process's own mount namespace, which
// its parent gave it, so that they end with it.
type Launch struct {
	Cgroups []string // files cgroup.procs, which the process is written into
	UID     int      // whom the process becomes, where it is root; 0: nobody else
	GID     int

	At        string   // an existing folder, over which a file system in memory is mounted. Empty: nothing is mounted
	Size      int64    // bytes of that; 0: half of the machine's memory
	In        string   // where relative paths of the next three begin: the kernel takes no more than a page of them
	Lower     []string // folders, the topmost first, that are seen at At/root, and not written to
	Upper     string   // folder for what is written there instead. Empty: in the file system in memory
	Work      string   // folder beside Upper, for the kernel
	UserXattr bool     // whoever mounts is not root outside
	Dir       string   // folder in At/root that the process's user shall have; made where it is not there

	Program []string // by its path, and its arguments
}

// Args are the arguments with which cmd/inside does it.
func (l Launch) Args() []string {
	args := []string{"launch"}
	text := func(name string, values ...string) {
		for _, v := range values {
			if v != "" {
				args = append(args, name, v)
			}
		}
	}
	text("-cgroup", l.Cgroups...)
	text("-uid", strconv.Itoa(l.UID))
	text("-gid", strconv.Itoa(l.GID))
	text("-at", l.At)
	text("-size", strconv.FormatInt(l.Size, 10))
	text("-in", l.In)
	text("-lower", l.Lower...)
	text("-upper", l.Upper)
	text("-work", l.Work)
	text("-dir", l.Dir)
	if l.UserXattr {
		args = append(args, "-userxattr")
	}
	return append(append(args, "--"), l.Program...)
}

// ParseLaunch is the inverse of [Launch.Args], without the first one.
func ParseLaunch(args []string) (Launch, error) {
	var l Launch
	for len(args) > 0 {
		name := args[0]
		args = args[1:]
		switch name {
		case "--":
			l.Program = args
			if len(args) == 0 {
				return l, errors.New("launch: no program")
			}
			return l, nil
		case "-userxattr":
			l.UserXattr = true
			continue
		}
		if len(args) == 0 {
			break
		}
		value := args[0]
		args = args[1:]
		var err error
		switch name {
		case "-cgroup":
			l.Cgroups = append(l.Cgroups, value)
		case "-uid":
			l.UID, err = strconv.Atoi(value)
		case "-gid":
			l.GID, err = strconv.Atoi(value)
		case "-at":
			l.At = value
		case "-size":
			l.Size, err = strconv.ParseInt(value, 10, 64)
		case "-in":
			l.In = value
		case "-lower":
			l.Lower = append(l.Lower, value)
		case "-upper":
			l.Upper = value
		case "-work":
			l.Work = value
		case "-dir":
			l.Dir = value
		default:
			err = errors.New("no such argument")
		}
		if err != nil {
			return l, errors.New("launch: " + name + " " + value + ": " + err.Error())
		}
	}
	return l, errors.New("launch: no program")
}
