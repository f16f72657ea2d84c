package main

import (
	"context"
	"encoding/json"
	"os"
	"sort"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// warmUp passes before anything is measured: connections open, windows and heaps grow.
const warmUp = 300 * time.Millisecond

// result is what a load prints. Times are in microseconds; CPU time is that of the process in the middle, per call.
type result struct {
	PerSecond     float64 `json:"per_second"`
	P50           float64 `json:"p50_us"`
	P99           float64 `json:"p99_us"`
	CPU           float64 `json:"cpu_us"`
	ResidentBytes int64   `json:"resident_bytes"`
}

// window is the time in which a load is measured.
type window struct{ from, to time.Time }

func newWindow(length time.Duration) window {
	from := time.Now().Add(warmUp)
	return window{from, from.Add(length)}
}

func (w window) holds(t time.Time) bool { return t.After(w.from) && t.Before(w.to) }

// measure waits the window out while the load runs, and returns what process pid used in it.
func (w window) measure(pid string) (cpu time.Duration, residentBytes int64) {
	time.Sleep(time.Until(w.from))
	before := cpuTime(pid)
	time.Sleep(time.Until(w.to))
	return cpuTime(pid) - before, peakResident(pid)
}

func (w window) print(took []time.Duration, cpu time.Duration, residentBytes int64) error {
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	at := func(percent int) float64 { return microseconds(took[(len(took)-1)*percent/100]) }
	count := float64(len(took))
	return json.NewEncoder(os.Stdout).Encode(result{
		PerSecond:     count / w.to.Sub(w.from).Seconds(),
		P50:           at(50),
		P99:           at(99),
		CPU:           microseconds(cpu) / count,
		ResidentBytes: residentBytes,
	})
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// loadUnary keeps so many calls in flight on one connection.
func loadUnary(socket, method string, request []byte, inFlight int, length time.Duration, pid string) error {
	client, err := connect(socket, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	w := newWindow(length)
	took := make([][]time.Duration, inFlight)
	failures := make(chan error, inFlight)
	var callers sync.WaitGroup
	for caller := range took {
		callers.Add(1)
		go func(took *[]time.Duration) {
			defer callers.Done()
			for begin := time.Now(); begin.Before(w.to); {
				var answer []byte
				if err := client.Invoke(context.Background(), path(method), request, &answer); err != nil {
					failures <- err
					return
				}
				end := time.Now()
				if w.holds(end) {
					*took = append(*took, end.Sub(begin))
				}
				begin = end
			}
		}(&took[caller])
	}
	cpu, residentBytes := w.measure(pid)
	callers.Wait()
	select {
	case err := <-failures:
		return err
	default:
	}
	var all []time.Duration
	for _, one := range took {
		all = append(all, one...)
	}
	return w.print(all, cpu, residentBytes)
}

// loadEvents reads one stream. An event's time is its age when it is read.
func loadEvents(socket string, request []byte, length time.Duration, pid string) error {
	client, err := connect(socket, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := client.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path(eventMethod))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	w := newWindow(length)
	var took []time.Duration
	ended := make(chan error, 1)
	go func() {
		for time.Now().Before(w.to) {
			var event []byte
			if err := stream.RecvMsg(&event); err != nil {
				ended <- err
				return
			}
			if w.holds(time.Now()) {
				took = append(took, age(event))
			}
		}
		ended <- nil
	}()
	cpu, residentBytes := w.measure(pid)
	if err := <-ended; err != nil {
		return err
	}
	return w.print(took, cpu, residentBytes)
}
