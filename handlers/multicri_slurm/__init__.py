"""Pods as Slurm jobs in a cluster that is reached over SSH."""

from multicri_proxy.api.adapter import Adapter, AdapterContext
from multicri_slurm.adapter import SlurmAdapter


def adapter(context: AdapterContext) -> Adapter:
    """The plug-in: an AdapterFactory. Raises InvalidArgument if a setting is wrong."""
    return SlurmAdapter(context)


__all__ = ["adapter"]
