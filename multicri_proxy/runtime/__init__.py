"""CRI's rules for pods and containers that an adapter runs, written once for all adapters."""
