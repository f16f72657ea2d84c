package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

const (
	clockTick = 10 * time.Millisecond // USER_HZ, proc(5)
	startsBy  = 30 * time.Second
)

// cpuTime is user and system time of all threads of a process. Source: proc(5), /proc/pid/stat, fields 14 and 15.
func cpuTime(pid string) time.Duration {
	stat := read("/proc/" + pid + "/stat")
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	return time.Duration(number(fields[11])+number(fields[12])) * clockTick
}

// peakResident is the most memory that a process has had resident so far. Source: proc(5), /proc/pid/status, VmHWM.
func peakResident(pid string) int64 {
	for _, line := range bytes.Split(read("/proc/"+pid+"/status"), []byte("\n")) {
		if fields := bytes.Fields(line); len(fields) == 3 && string(fields[0]) == "VmHWM:" {
			return number(fields[1]) << 10
		}
	}
	return 0
}

func number(text []byte) int64 {
	value, err := strconv.ParseInt(string(text), 10, 64)
	check(err)
	return value
}

// timeStart runs a server, prints the milliseconds from its exec to its first answer, and stops it.
func timeStart(socket, method string, request []byte, argv []string) error {
	command := exec.Command(argv[0], argv[1:]...)
	command.Stderr = os.Stderr
	begin := time.Now()
	if err := command.Start(); err != nil {
		return err
	}
	defer func() {
		command.Process.Signal(syscall.SIGTERM)
		command.Wait()
	}()
	for time.Since(begin) < startsBy {
		if connection, err := net.Dial("unix", socket); err == nil {
			client, err := connect(socket, connection)
			if err != nil {
				return err
			}
			defer client.Close()
			var answer []byte
			if err := client.Invoke(context.Background(), path(method), request, &answer); err != nil {
				return err
			}
			_, err = fmt.Printf("{\"start_ms\": %.1f}\n", microseconds(time.Since(begin))/1000)
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("%s: no answer after %s", argv[0], startsBy)
}
