"""A transparent CRI proxy that runs chosen pods as Slurm jobs."""

__version__ = "0.1.0"
