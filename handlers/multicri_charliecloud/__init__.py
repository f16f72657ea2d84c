"""Containers on the node itself, by ch-run."""
