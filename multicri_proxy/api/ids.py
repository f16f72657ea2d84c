"""The names by which CRI and Slurm know things, kept apart by the type checker."""

from typing import NewType

PodSandboxId = NewType("PodSandboxId", str)
"""64 hexadecimal digits, made by us."""

ContainerId = NewType("ContainerId", str)
"""64 hexadecimal digits, made by us."""

ImageRef = NewType("ImageRef", str)
"""An image as the kubelet names it, for example ``multicri/docker-repository.perl:5``."""

ImageId = NewType("ImageId", str)
"""``sha256:`` and 64 hexadecimal digits."""

JobId = NewType("JobId", int)
"""A Slurm job's number, unique in its cluster until slurmctld wraps around."""
