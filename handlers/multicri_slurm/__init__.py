"""Pods as Slurm jobs in a cluster that is reached over SSH."""
