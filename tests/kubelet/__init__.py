"""The kubelet's role: a CRI client, and a daemon of ours for it to talk to."""

from kubelet.client import Kubelet
from kubelet.proxy import Proxy
from kubelet.volumes import PodVolumes, mount

__all__ = ["Kubelet", "PodVolumes", "Proxy", "mount"]
