package sandbox

// Podman is a pool of the kind podman, as YAML says it.
type Podman struct {
	Config   `yaml:",inline"`
	Contents `yaml:",inline"`
	Image    string `yaml:"image" doc:"Template over the task: an image that podman has, by name or id. It is not fetched: podman pull NAME, or podman load, does that before the run." check:"required"`
	Runtime  string `yaml:"runtime" doc:"OCI runtime, as crun or runc. Empty: podman's own choice, or the first other one that works here." free:"true"`
	ReadOnly bool   `yaml:"read_only" doc:"The image is not written to: only dir and /tmp are, which are in memory then." default:"false"`
}
