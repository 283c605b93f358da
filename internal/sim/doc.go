// Package sim stands in for a model service, for people without a GPU and for
// tests: it answers as a server with the OpenAI API does, takes the time that a
// real engine would take, and fails when told to.
//
// An Engine is one server's worth of it. Start serves engines over HTTP on
// loopback; NewDriver calls one in process, without sockets. What an engine
// replies is made up, and depends on the request and Config.Seed alone.
//
// The package knows nothing of tasks, and nothing of the clients that call it.
// Time is that of package time, so in a bubble of testing/synctest it is
// virtual.
package sim
