package sandbox

// Apptainer is a pool of the kind apptainer, as YAML says it.
type Apptainer struct {
	Config   `yaml:",inline"`
	Contents `yaml:",inline"`
	Image    string `yaml:"image" doc:"Template over the task: the path of an image on this machine, a file .sif or an unpacked folder (apptainer pull FILE.sif docker://NAME makes one)." check:"required"`
}
