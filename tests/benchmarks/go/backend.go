package main

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
)

// createdAt is the tag of ContainerEventResponse.created_at, a varint of nanoseconds. An event's file is without it.
const createdAt = 3 << 3

// serve answers each method that has a file with that file. Events repeat theirs without end, as fast as they go.
func serve(socket, answers string) error {
	files, err := os.ReadDir(answers)
	if err != nil {
		return err
	}
	description := grpc.ServiceDesc{ServiceName: service, HandlerType: (*interface{})(nil)}
	for _, file := range files {
		answer := read(answers + "/" + file.Name())
		if file.Name() == eventMethod {
			description.Streams = append(description.Streams,
				grpc.StreamDesc{StreamName: eventMethod, ServerStreams: true, Handler: sendEvents(answer)})
		} else {
			description.Methods = append(description.Methods,
				grpc.MethodDesc{MethodName: file.Name(), Handler: answerWith(answer)})
		}
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(messageLimit))
	server.RegisterService(&description, struct{}{})
	return server.Serve(listener)
}

type unaryHandler = func(interface{}, context.Context, func(interface{}) error, grpc.UnaryServerInterceptor) (interface{}, error)

func answerWith(answer []byte) unaryHandler {
	return func(_ interface{}, _ context.Context, receive func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
		var request []byte
		return answer, receive(&request)
	}
}

func sendEvents(event []byte) grpc.StreamHandler {
	return func(_ interface{}, stream grpc.ServerStream) error {
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		for {
			stamped := make([]byte, len(event), len(event)+1+binary.MaxVarintLen64)
			copy(stamped, event)
			stamped = append(stamped, createdAt)
			length := binary.PutUvarint(stamped[len(stamped):cap(stamped)], uint64(time.Now().UnixNano()))
			if err := stream.SendMsg(stamped[:len(stamped)+length]); err != nil {
				return err
			}
		}
	}
}

// age is how long ago an event was stamped. A nanosecond of our days is a varint of nine bytes, the event's last.
func age(event []byte) time.Duration {
	nanoseconds, _ := binary.Uvarint(event[len(event)-9:])
	return time.Duration(time.Now().UnixNano() - int64(nanoseconds))
}
