// Crib is the Go half of the benchmark: a CRI backend and the clients that load it, all of raw bytes.
//
//	crib serve SOCKET ANSWERS                           a runtime that answers from files
//	crib unary SOCKET METHOD REQUEST IN_FLIGHT S PID    one unary call, again and again
//	crib events SOCKET REQUEST S PID                    one event stream, read as fast as it comes
//	crib start SOCKET METHOD REQUEST COMMAND ...        time from exec of COMMAND to its first answer
//
// METHOD is one of runtime.v1.RuntimeService. REQUEST is a file. Clients print one JSON object. CPU time and memory
// are those of process PID while the load lasts.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

const service = "runtime.v1.RuntimeService"

const eventMethod = "GetContainerEvents"

func main() {
	arguments := os.Args[2:]
	switch os.Args[1] {
	case "serve":
		check(serve(arguments[0], arguments[1]))
	case "unary":
		inFlight, err := strconv.Atoi(arguments[3])
		check(err)
		check(loadUnary(arguments[0], arguments[1], read(arguments[2]), inFlight, seconds(arguments[4]), arguments[5]))
	case "events":
		check(loadEvents(arguments[0], read(arguments[1]), seconds(arguments[2]), arguments[3]))
	case "start":
		check(timeStart(arguments[0], arguments[1], read(arguments[2]), arguments[3:]))
	default:
		check(fmt.Errorf("unknown command %s", os.Args[1]))
	}
}

func seconds(text string) time.Duration {
	value, err := strconv.ParseFloat(text, 64)
	check(err)
	return time.Duration(value * float64(time.Second))
}

func read(path string) []byte {
	content, err := os.ReadFile(path)
	check(err)
	return content
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "crib:", err)
		os.Exit(1)
	}
}
