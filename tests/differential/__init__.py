"""The same calls to a real containerd, directly and through the proxy: what comes back is the same."""
