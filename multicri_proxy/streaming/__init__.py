"""Exec, attach and port-forward of an adapter's pods, over SPDY/3.1 and WebSocket."""
