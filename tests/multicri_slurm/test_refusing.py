"""What is refused, and what it says; in the real cluster."""

from pathlib import Path

import asyncssh
import pytest
from slurm_bench import BOTH_WAYS, Bench

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unavailable

pytestmark = pytest.mark.testbed


async def test_a_wrong_password_names_the_variables(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], cluster={"CLUSTER_KEYVALUE": None, "CLUSTER_PASSWORD": "wrong"})
        with pytest.raises(PermissionDenied, match="CLUSTER_PASSWORD"):
            await slurm.create_container(spec)
    assert bench.containers_kept() == []


async def test_a_wrong_password_does_not_ride_on_a_connection_that_is_open(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        good = bench.spec(["/bin/true"])
        await slurm.create_container(good)
        bad = bench.spec(["/bin/true"], cluster={"CLUSTER_KEYVALUE": None, "CLUSTER_PASSWORD": "wrong"})
        with pytest.raises(PermissionDenied):
            await slurm.create_container(bad)
        await slurm.remove_container(good.id)


async def test_a_host_without_a_known_key_is_refused_and_says_how_to_mend_it(bench: Bench, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.touch()
    async with bench.adapter(known_hosts=str(empty)) as slurm:
        with pytest.raises(PermissionDenied, match="ssh-keyscan"):
            await slurm.create_container(bench.spec(["/bin/true"]))


async def test_a_host_whose_key_has_changed_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    changed = tmp_path / "known_hosts"
    changed.write_text(f"{bench.bed.cluster.host} {other}\n")
    async with bench.adapter(known_hosts=str(changed)) as slurm:
        with pytest.raises(PermissionDenied, match="host key is not the one"):
            await slurm.create_container(bench.spec(["/bin/true"]))


async def test_a_host_that_the_admin_does_not_allow_is_refused(bench: Bench) -> None:
    async with bench.adapter(allowed_hosts=["*.example.org"]) as slurm:
        with pytest.raises(PermissionDenied, match="allowed_hosts"):
            await slurm.create_container(bench.spec(["/bin/true"]))


async def test_a_host_that_does_not_answer_is_unavailable(bench: Bench, tmp_path: Path) -> None:
    known = bench.bed.cluster.known_hosts.read_text().replace(bench.bed.cluster.host, "10.77.0.99")
    (tmp_path / "known_hosts").write_text(known)
    async with bench.adapter(known_hosts=str(tmp_path / "known_hosts"), connect_timeout_s=2) as slurm:
        with pytest.raises(Unavailable, match=r"10\.77\.0\.99"):
            await slurm.create_container(bench.spec(["/bin/true"], cluster={"CLUSTER_HOST": "10.77.0.99"}))


@BOTH_WAYS
async def test_a_partition_that_is_none_is_refused_in_slurms_own_words(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], cluster={"JOB_QUEUE": "nowhere"})
        await slurm.create_container(spec)
        with pytest.raises(InvalidArgument, match=r"(?i)invalid partition"):
            await slurm.start_container(spec.id)
        assert (await slurm.details(spec.id))["stage"] == "staged"
        await slurm.remove_container(spec.id)
    assert bench.containers_kept() == []


@BOTH_WAYS
@pytest.mark.parametrize("user", ["alice", "bob"])
async def test_an_image_that_is_none_fails_with_the_builders_words_and_leaves_nothing(bench: Bench, user: str) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/true"], user=user, image="multicri/docker.registry.test/test/nothing:1")
        with pytest.raises((NotFound, FailedPrecondition), match="its registry has no such image"):
            await slurm.create_container(spec)
    assert bench.containers_kept() == []
    assert bench.home_files(user, spec.pod.sandbox_id) == []
    digits = spec.image.id.removeprefix("sha256:")
    assert [path for path in bench.home_files(user, digits) if not path.endswith(".lock")] == []
