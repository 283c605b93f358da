package cli

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"matrix/internal/config"
	"matrix/session"
	"matrix/spec"
)

// serveOptions are the flags of a run that lets workers join.
type serveOptions struct {
	address   string
	advertise []string
	noWork    bool
	labels    []string
	peers     []string
	nats      string
	store     string
}

// anyPort is the address that --serve without one stands for: this machine alone.
const anyPort = "0"

func (o *serveOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.address, "serve", "", "let workers join, at `ADDR`: HOST:PORT, :PORT for all addresses of this machine, or PORT for itself alone, which is the default, with a free one")
	f.Lookup("serve").NoOptDefVal = anyPort
	f.StringSliceVar(&o.advertise, "advertise", nil, "HOST or HOST:PORT under which workers reach it, where that is not what this machine finds itself")
	f.BoolVar(&o.noWork, "no-work", false, "with --serve: leave all steps to workers")
	f.StringSliceVar(&o.peers, "peers", nil, "with --serve: three or five machines that begin the run with this same command, this one among them, as `HOST` or HOST:PORT; one leads, the others stand by")
	f.StringVar(&o.nats, "nats", "", "with --serve, instead of --peers: `URL` of NATS servers with JetStream that keep the run")
	f.StringVar(&o.store, "store", "", "with --peers or --nats: `DIR` on a disk of this machine alone")
	_ = cobra.MarkFlagDirname(f, "store")
	f.StringArrayVar(&o.labels, "label", nil, "with --serve: KEY=VALUE of this machine, for where: of roles; may be given several times")
}

var addressForm = regexp.MustCompile(`^([0-9]{1,5}|(\[[^\]=]*\]|[^/=\[\]:]*):[^/=:]*)$`)

// split takes from the arguments of a command the address that stands behind --serve,
// which may be there or not.
func (o *serveOptions) split(args []string) (rest []string, address string) {
	i := slices.IndexFunc(args, func(a string) bool {
		_, err := os.Stat(a)
		return err != nil && addressForm.MatchString(a)
	})
	if o.address != anyPort || i < 0 {
		return args, o.address
	}
	return slices.Delete(slices.Clone(args), i, i+1), args[i]
}

// apply sets in a config what the flags say, and returns them as words to be typed
// again.
func (o *serveOptions) apply(cmd *cobra.Command, c *spec.Cluster) (words []string) {
	f := cmd.Flags()
	if f.Changed("serve") {
		c.Serve = o.address
		words = append(words, "--serve="+shellWord(o.address))
	}
	if f.Changed("advertise") {
		c.Advertise = o.advertise
		words = append(words, "--advertise="+shellWord(strings.Join(o.advertise, ",")))
	}
	if f.Changed("no-work") {
		c.NoWork = o.noWork
		words = append(words, fmt.Sprintf("--no-work=%t", o.noWork))
	}
	if f.Changed("peers") {
		c.Peers = o.peers
		words = append(words, "--peers="+shellWord(strings.Join(o.peers, ",")))
	}
	if f.Changed("nats") {
		c.NATS = o.nats
		words = append(words, "--nats="+shellWord(config.Hide(o.nats)))
	}
	if f.Changed("store") {
		c.Store = o.store
		words = append(words, "--store="+shellWord(o.store))
	}
	for _, l := range o.labels {
		words = append(words, "--label", shellWord(l))
	}
	return words
}

// machine is what this machine is labelled with; nil where nothing is said.
func (o *serveOptions) machine(c *spec.Cluster) (map[string]string, error) {
	if c.Serve == "" && len(o.advertise) > 0 {
		return nil, flagErrorf("--advertise tells workers where the run is, and without --serve none can join it")
	}
	if len(o.labels) == 0 {
		return nil, nil
	}
	if c.Serve == "" {
		return nil, flagErrorf("--label tells machines apart, and without --serve this is the only one: it acts for all roles")
	}
	return session.Labels(o.labels)
}
