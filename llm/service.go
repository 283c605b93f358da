package llm

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Service is what the config of every model with a service behind it has.
type Service struct {
	Timeout     time.Duration `yaml:"timeout" free:"true" doc:"Longest wait for one reply; then the call is tried again. 0s for 10m." default:"10m"`
	Concurrency Concurrency   `yaml:"concurrency" free:"true" doc:"Calls at the service at once: a number, or auto, which finds how many fill it and no more. Further calls wait, each role in its turn." default:"auto"`
	Scatter     bool          `yaml:"scatter" free:"true" doc:"Send the calls of a task to any endpoint, rather than keep them at one that has the beginning of their prompts cached." default:"false"`
	RPM         int           `yaml:"rpm" free:"true" doc:"Most requests a minute; 0 for what the service says in its headers, if it does." default:"0"`
	TPM         int           `yaml:"tpm" free:"true" doc:"Most tokens a minute, of prompts and replies; 0 for what the service says in its headers, if it does." default:"0"`
	Refusals    int           `yaml:"refusals" free:"true" doc:"Calls in a row that the service refuses, with none answered between, at which the run stops rather than lose row after row; 0 for never, and each refusal fails its task at once. What is refused for its content does not count." default:"100"`
	Price       *Price        `yaml:"price" free:"true" doc:"What the model costs. Default: that of the table of prices, where it has the model."`
	Sampling    `yaml:",inline"`

	Named string `yaml:"-"` // the model's name at the service; empty where the service is asked for it
}

// Concurrency is a number of calls at once; 0 is auto.
type Concurrency int

// UnmarshalText reads a number or "auto".
func (c *Concurrency) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*c = 0
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 {
		return fmt.Errorf("got %q, want auto or a number from 1", text)
	}
	*c = Concurrency(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (c Concurrency) MarshalText() ([]byte, error) {
	if c == 0 {
		return []byte("auto"), nil
	}
	return strconv.AppendInt(nil, int64(c), 10), nil
}

// Endpoints says where a service is: addresses, and where to learn of them.
type Endpoints []Endpoint

// Endpoint is one entry of Endpoints. One of its fields is set.
type Endpoint struct {
	URL     string        `yaml:"url" doc:"Base URL."`
	File    string        `yaml:"file" path:"here" doc:"File with a base URL a line; read again when it changes. It need not be there yet."`
	Command []string      `yaml:"command" doc:"Program, and its arguments, that prints a base URL a line; run again every so often."`
	DNS     string        `yaml:"dns" doc:"host:port, or a base URL: each address that the host name has is an endpoint; looked up again every so often."`
	Every   time.Duration `yaml:"every" doc:"How often to look again, for file, command and dns." default:"5s"`
}

// UnmarshalText makes endpoints of one base URL.
func (e *Endpoints) UnmarshalText(text []byte) error {
	*e = Endpoints{{URL: string(text)}}
	return nil
}

// UnmarshalText makes an endpoint of its base URL.
func (e *Endpoint) UnmarshalText(text []byte) error {
	*e = Endpoint{URL: string(text)}
	return nil
}

// check says what is wrong with s.
func (s *Service) check() error {
	switch {
	case s.Timeout < 0:
		return &FieldError{Field: "timeout", Err: fmt.Errorf("got %v, want 0s or more", s.Timeout)}
	case s.Concurrency < 0:
		return &FieldError{Field: "concurrency", Err: fmt.Errorf("got %d, want auto or 1 or more", s.Concurrency)}
	case s.RPM < 0:
		return &FieldError{Field: "rpm", Err: errors.New("is negative; want 0 or more")}
	case s.TPM < 0:
		return &FieldError{Field: "tpm", Err: errors.New("is negative; want 0 or more")}
	case s.Refusals < 0:
		return &FieldError{Field: "refusals", Err: fmt.Errorf("got %d, want 0 or more", s.Refusals)}
	}
	return s.Sampling.Check()
}
