"""The adapter with the real cluster behind it; only the store and the secrets are of this process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from contract.bench import DEADLINE_S, AdapterBench, eventually, everything
from multicri_slurm.adapter import adapter
from testbed import Testbed

from multicri_proxy.api.adapter import AdapterFactory, ContainerSpec, Resources
from multicri_proxy.api.ids import ContainerId

__all__ = ["BOTH_WAYS", "DEADLINE_S", "Bench", "eventually", "everything"]

BOTH_WAYS = pytest.mark.parametrize(
    "bench", ["ssh", pytest.param("rest", marks=pytest.mark.first_parameters)], indirect=True
)
"""For tests that hold whichever way leads to the cluster; by the second way with the first of their parameters."""


@dataclass(kw_only=True)
class Bench(AdapterBench):
    """user: whose pods they are, unless a test says so.

    rest: over slurmrestd, where who a pod is follows from its namespace, and nobody logs in anywhere.
    """

    bed: Testbed
    factory: AdapterFactory = adapter
    user: str = "alice"
    rest: bool = False

    def spec(
        self,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        *,
        user: str = "",
        env: Mapping[str, str | bytes] | None = None,
        cluster: Mapping[str, str | None] | None = None,
        image: str = "multicri/docker-repository.registry.test/test/busybox:1.0",
        working_dir: str = "",
        annotations: Mapping[str, str] | None = None,
        resources: Resources | None = None,
    ) -> ContainerSpec:
        user = user or self.user
        login = {
            "CLUSTER_HOST": self.bed.cluster.host,
            "CLUSTER_USERNAME": user,
            "CLUSTER_KEYVALUE": self.bed.cluster.user(user).key.read_text(),
        }
        variables: dict[str, str | bytes | None] = {
            **({} if self.rest else login),
            "JOB_CUSTOM_CONFIG": "--time=5 --mem=100M",
            **(cluster or {}),
            **(env or {}),
        }
        return self.container(
            image,
            command,
            args,
            variables,
            namespace=user if self.rest else "default",
            annotations=annotations,
            working_dir=working_dir,
            resources=resources,
        )

    def remains(self, spec: ContainerSpec) -> list[str]:
        return [*self.home_files(self.user, spec.pod.sandbox_id), *self.processes()]

    def processes(self) -> list[str]:
        """What still runs of the user's jobs, on either node."""
        ps = ["ps", "-u", self.user, "-o", "args="]
        lines = [line for node in ("cn1", "cn2") for line in self.bed.cluster.run(node, ps).stdout.splitlines()]
        return [line for line in lines if "defunct" not in line]

    def home_files(self, user: str, name: str) -> list[str]:
        """Files of the user below the working directory, whose path has this in it."""
        top = self.bed.cluster.user(user).home / str(self.settings["mount_path"])
        return [str(path) for path in top.rglob("*") if name in str(path)]

    def jobs(self, user: str, container_id: ContainerId) -> list[str]:
        """``id state`` of each job of a container that Slurm knows."""
        name = f"multicri-{container_id[:32]}"
        done = self.bed.cluster.run("login", ["squeue", "-h", "-t", "all", "-n", name, "-o", "%i %T"], user="root")
        return done.stdout.split("\n")[:-1]

    def job_facts(self, job_id: str) -> Mapping[str, str]:
        """What ``scontrol show job`` tells of a job, by name."""
        shown = self.bed.cluster.run("login", ["scontrol", "-o", "show", "job", job_id], check=True).stdout
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)
