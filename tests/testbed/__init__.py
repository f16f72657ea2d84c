"""A test bed of real parts: a containerd node, a Slurm cluster of three hosts behind sshd, a TLS registry.

Standard library only: it runs before anything of the project is installed.
"""

from testbed.bed import Testbed
from testbed.cluster import Cluster, ClusterUser
from testbed.node import Node
from testbed.programs import TestbedError
from testbed.registry import Registry
from testbed.settings import Settings

__all__ = ["Cluster", "ClusterUser", "Node", "Registry", "Settings", "Testbed", "TestbedError"]
