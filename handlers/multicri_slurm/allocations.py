"""Which containers share which allocation.

An allocation is a record like a container's, of a job like a container's: it is submitted, watched, stopped and removed
in the same way. A pod gets a new one if a container is created when it has none, or when that one is over.
"""

import posixpath
import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.api.ids import ContainerId, PodSandboxId
from multicri_proxy.api.log import Log
from multicri_slurm.allocation_script import PLACES, AllocationScript
from multicri_slurm.plan import Plan
from multicri_slurm.records import Record, Records, Stage, job_name_of
from multicri_slurm.script import JobScript, comment_of, render
from multicri_slurm.verbs import ClusterVerbs

_log = Log("slurm")


class Allocations:
    """Those of all pods that have one."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def of_sandbox(self, sandbox_id: PodSandboxId) -> Sequence[Record]:
        return [record for record in self._records.all() if record.allocation_of == sandbox_id]

    def used_by(self, containers: Collection[ContainerId]) -> frozenset[ContainerId]:
        """The allocations in which these containers are steps."""
        return frozenset(
            record.allocation
            for record in self._records.all()
            if record.allocation is not None and record.container_id in containers
        )

    def unused_in(self, sandbox_directory: str) -> Sequence[Record]:
        """Those of a pod in which no container is a step, begun, ended or yet to come."""
        used = {record.allocation for record in self._records.all()}
        return [
            record
            for record in self._records.all()
            if record.allocation_of is not None
            and record.container_id not in used
            and posixpath.dirname(record.directory) == sandbox_directory
        ]

    async def join(
        self, member: Record, the_plan: Plan, cluster: ClusterVerbs, ending: Collection[ContainerId]
    ) -> ContainerId:
        """The allocation for a container of the pod: the one that there is, else a new one, staged.

        To be called, and ``member`` put, under the sandbox's lock. ending: those that are being removed.
        Raises InvalidArgument if the pod's other containers are another account's.
        """
        sandbox_id = the_plan.spec.pod.sandbox_id
        for known in self.of_sandbox(sandbox_id):
            if known.container_id in ending or known.stage in {Stage.STAGING, Stage.ENDED}:
                continue
            if (known.account, known.profile) != (member.account, member.profile):
                raise InvalidArgument(
                    f"container {the_plan.spec.name!r} would run as {member.account}, and its pod's allocation is "
                    f"{known.account}'s: give all containers of the pod the same CLUSTER_*, or choose "
                    "job-per-container"
                )
            return known.container_id
        return await self._found(member, the_plan, cluster)

    async def _found(self, member: Record, the_plan: Plan, cluster: ClusterVerbs) -> ContainerId:
        pod = the_plan.spec.pod
        key = ContainerId(secrets.token_hex(32))
        directory = f"{posixpath.dirname(member.directory)}/{key}"
        allocation = replace(
            member,
            container_id=key,
            sealed=self._records.seal(key, the_plan.login),
            directory=directory,
            job_name=job_name_of(key),
            results="",
            message_path="",
            allocation_of=pod.sandbox_id,
        )
        job = JobScript(
            job_name=allocation.job_name,
            comment=comment_of(pod.namespace, pod.name, "allocation"),
            options=the_plan.options,
            script=AllocationScript(directory=directory, idle_s=int(the_plan.profile.settings.allocation_idle_s)),
        )
        await self._records.put(allocation)
        await cluster.make_directories(directory, *(f"{directory}/{place}" for place in PLACES))
        await cluster.write_files(directory, {"job.sh": (render(job).encode(), 0o600)})
        await self._records.change(key, stage=Stage.STAGED)
        _log.info("allocation staged", sandbox_id=pod.sandbox_id, account=member.account, directory=directory)
        return key

    def of_member(self, member: Record) -> Record:
        """The allocation in which a container is a step. Raises FailedPrecondition if it is gone."""
        record = self._records.get(member.allocation) if member.allocation is not None else None
        if record is None:
            raise FailedPrecondition(f"container {member.container_id}: its pod's allocation is gone")
        return record
