package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
)

// The largest message that the kubelet and containerd take or send.
const messageLimit = 16 << 20

// rawCodec takes the place of gRPC's own: a message is the bytes it is, sent from []byte and received in *[]byte.
type rawCodec struct{}

func (rawCodec) Name() string                                  { return "proto" }
func (rawCodec) Marshal(message interface{}) ([]byte, error)   { return message.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, into interface{}) error { *into.(*[]byte) = data; return nil }

func init() { encoding.RegisterCodec(rawCodec{}) }

// connect opens one connection, as the kubelet does. connection: an open one to begin with, or nil.
func connect(socket string, connection net.Conn) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		if ready := connection; ready != nil {
			connection = nil
			return ready, nil
		}
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return grpc.Dial("passthrough:///localhost", grpc.WithInsecure(), grpc.WithBlock(), grpc.WithContextDialer(dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageLimit)))
}

func path(method string) string { return "/" + service + "/" + method }
