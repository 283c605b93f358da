package sim_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"matrix/internal/sim"
	"matrix/llm"
)

// A service in process, that refuses every second call or so.
func Example() {
	engines, err := sim.New(sim.Config{
		Preset:  "slots",
		Latency: sim.Latency{Mean: time.Millisecond},
		Replies: sim.Replies{Kind: "echo"},
		Faults:  []sim.Fault{{Kind: sim.Reject, Share: 0.5}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer engines[0].Close()
	driver := sim.NewDriver(engines[0])
	for range 4 {
		reply, err := driver.Send(context.Background(), &llm.Request{Messages: []llm.Message{{Role: "user", Content: "Hello"}}})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(reply.Choices[0].Text)
	}
	sum := engines[0].Stats().Sum()
	fmt.Println(sum.Done, "done,", sum.Faults[sim.Reject], "rejected")
	// Output:
	// Hello
	// Hello
	// sim://0: 429: simulated: too many requests
	// Hello
	// 3 done, 1 rejected
}
