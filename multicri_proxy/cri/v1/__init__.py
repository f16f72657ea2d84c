"""CRI `runtime.v1`."""
