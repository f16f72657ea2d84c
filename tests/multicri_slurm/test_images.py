"""Images in the real cluster: built by its real builders from the real registry, used, removed."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from multicri_images.names import source_of
from multicri_images.pool import image_id
from registries import PASSWORD, USER, breaking_line, poisoned, registry
from runtime.doubles import MemoryImages
from slurm_bench import BOTH_WAYS, Bench, eventually, everything
from testbed import Testbed
from testbed.host import HostName

from multicri_proxy.api.adapter import ContainerSpec, OutputStream, Phase
from multicri_proxy.api.errors import (
    FailedPrecondition,
    MulticriError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from multicri_proxy.api.image import BuildSource, Image, KeepsImages, RegistryAuth

pytestmark = pytest.mark.testbed

USERS = ("alice", "bob")
PROGRAM = {"alice": "apptainer", "bob": "ch-image"}
NAMES = tuple(f"multicri/docker.registry.test/test/{name}:1.0" for name in ("busybox", "tool"))
HOSTS: tuple[HostName, ...] = ("login", "cn1", "cn2")
WRAPPER = """\
#!/bin/sh
# Stands before the real builder in PATH.
[ "$(id -un)" = {user} ] || exec /usr/bin/{program} "$@"
case "$*" in *build*|*pull*)
  mkdir -p ~/builder
  echo $$ >> ~/builder/calls
  while [ -e ~/builder/hold ]; do sleep 0.05; done
esac
exec /usr/bin/{program} "$@"
"""


class Sources(MemoryImages):
    """What builds are given, as the test says it; every image is known."""

    def __init__(self, **source: object) -> None:
        super().__init__()
        self.source = source
        self.gone = False

    def find(self, name: str) -> Image | None:
        return None if self.gone else Image(id=name, source="", names=())  # type: ignore[arg-type]

    async def build_source(self, image: Image, namespace: str) -> BuildSource:
        return BuildSource(uri=image.source, **self.source)  # type: ignore[arg-type]


@dataclass
class Place:
    """The images of a user, in a directory that only this test uses."""

    bed: Testbed
    user: str
    directory: Path

    @property
    def setting(self) -> str:
        return self.directory.name

    def images(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("[!.]*"))

    def remains(self) -> list[str]:
        return [path.name for path in self.directory.glob(".*.building*")]

    def run(self, *argv: str) -> str:
        return self.bed.cluster.run("login", argv, user=self.user, check=True).stdout  # type: ignore[arg-type]

    @property
    def calls(self) -> int:
        calls = self.directory.parent / "builder/calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    @contextlib.contextmanager
    def counted(self, *, held: bool = False) -> Iterator[Path]:
        """Counts the calls of the builder; gives a file that holds them while it exists, if they are to be held."""
        program = PROGRAM[self.user]
        script = WRAPPER.format(user=self.user, program=program)
        path, hold = f"/usr/local/bin/{program}", self.directory.parent / "builder/hold"
        self.run("mkdir", "-p", "builder")
        if held:
            self.run("touch", "builder/hold")
        # Whoever may not run the real one is not to find this one either.
        owner = f"cat > {path} && chown {self.user} {path} && chmod 700 {path}"
        for host in HOSTS:
            self.bed.cluster.run(host, ["sh", "-c", owner], stdin=script, check=True)
        try:
            yield hold
        finally:
            hold.unlink(missing_ok=True)
            for host in HOSTS:
                self.bed.cluster.run(host, ["rm", "-rf", path, f"/home/{self.user}/builder"], check=True)


@pytest.fixture(params=USERS)
def place(request: pytest.FixtureRequest, bed: Testbed) -> Iterator[Place]:
    home = bed.cluster.user(request.param).home
    found = Place(bed, request.param, home / "images-of-a-test")
    found.run("mkdir", "-p", "images-of-a-test")
    yield found
    bed.cluster.run("login", ["rm", "-rf", f"/home/{found.user}/images-of-a-test"], check=True)


@pytest.fixture
def bench(bench: Bench, place: Place) -> Bench:
    bench.settings["image_remote_mount"] = place.setting
    bench.images = Sources()
    return bench


def wants(bench: Bench, place: Place, name: str = NAMES[0]) -> ContainerSpec:
    return bench.spec(["/bin/true"], user=place.user, image=name)


def from_registry(spec: ContainerSpec, host: str) -> ContainerSpec:
    """The same container, its image from a registry whose name has a port."""
    source = f"docker://{host}/test/busybox:1.0"
    return replace(spec, image=replace(spec.image, id=image_id(source), source=source))


def id_of(name: str) -> str:
    return image_id(source_of(name)).removeprefix("sha256:")


async def fails(bench: Bench, spec: ContainerSpec, **settings: object) -> MulticriError:
    async with bench.adapter(**settings) as slurm:
        with pytest.raises(MulticriError) as caught:
            await slurm.create_container(spec)
        assert isinstance(slurm, KeepsImages)
        (build,) = slurm.builds(spec.image.id)
        assert build.state == "failed"
        assert build.log
    return caught.value


@BOTH_WAYS
async def test_twenty_containers_of_one_image_at_once_are_one_build(bench: Bench, place: Place) -> None:
    specs = [wants(bench, place) for _ in range(20)]
    with place.counted():
        async with bench.adapter() as slurm:
            await asyncio.gather(*(slurm.create_container(spec) for spec in specs))
            assert place.calls == 1
            assert isinstance(slurm, KeepsImages)
            (build,) = slurm.builds(specs[0].image.id)
            assert (build.state, build.size_bytes > 100_000) == ("built", True)
            await asyncio.gather(*(slurm.remove_container(spec.id) for spec in specs))
    assert [name.partition(".")[0] for name in place.images()] == [id_of(NAMES[0])]
    assert place.remains() == []


@BOTH_WAYS
async def test_two_proxies_of_one_account_build_an_image_once(bench: Bench, place: Place) -> None:
    other = Bench(bed=bench.bed, settings=bench.settings, rest=bench.rest, images=Sources())
    with place.counted(held=True) as hold:
        async with bench.adapter() as one, other.adapter() as two:
            first = asyncio.ensure_future(one.create_container(wants(bench, place)))
            second = asyncio.ensure_future(two.create_container(wants(other, place)))

            async def begun() -> bool:
                return place.calls == 1

            await eventually(begun, "a build that has begun")
            hold.unlink()
            await asyncio.gather(first, second)
            assert place.calls == 1


async def test_different_images_are_built_side_by_side(bench: Bench, place: Place) -> None:
    with place.counted(held=True) as hold:
        async with bench.adapter() as slurm:
            creations = [asyncio.ensure_future(slurm.create_container(wants(bench, place, name))) for name in NAMES]

            async def both() -> bool:
                return place.calls == 2

            await eventually(both, "two builds at once")
            hold.unlink()
            await asyncio.gather(*creations)
    assert [name.partition(".")[0] for name in place.images()] == sorted(map(id_of, NAMES))


async def test_no_more_are_built_at_once_than_an_admin_allows(bench: Bench, place: Place) -> None:
    with place.counted(held=True) as hold:
        async with bench.adapter(builds_at_once=1) as slurm:
            creations = [asyncio.ensure_future(slurm.create_container(wants(bench, place, name))) for name in NAMES]

            async def one() -> bool:
                return place.calls >= 1

            await eventually(one, "a build")
            assert place.calls == 1
            hold.unlink()
            await asyncio.gather(*creations)
            assert place.calls == 2


async def test_a_creation_that_is_cancelled_leaves_a_build_that_the_next_one_joins(bench: Bench, place: Place) -> None:
    with place.counted(held=True) as hold:
        async with bench.adapter() as slurm:
            first = asyncio.ensure_future(slurm.create_container(wants(bench, place)))

            async def begun() -> bool:
                return place.calls == 1

            await eventually(begun, "a build")
            first.cancel()
            await asyncio.wait({first})
            second = asyncio.ensure_future(slurm.create_container(wants(bench, place)))
            hold.unlink()
            await second
            assert place.calls == 1


async def test_a_build_that_is_killed_leaves_no_half_image(bench: Bench, place: Place) -> None:
    with place.counted(held=True) as hold:
        async with bench.adapter() as slurm:
            creation = asyncio.ensure_future(slurm.create_container(wants(bench, place)))

            async def begun() -> bool:
                return place.calls == 1

            await eventually(begun, "a build")
            place.run("sh", "-c", "kill -KILL $(cat builder/calls)")
            with pytest.raises(FailedPrecondition, match="killed by signal 9"):
                await creation
            assert (place.images(), place.remains()) == ([], [])
            hold.unlink()
            await slurm.create_container(wants(bench, place))
    assert len(place.images()) == 1


async def test_what_a_killed_script_has_left_is_removed_by_the_next_build(bench: Bench, place: Place) -> None:
    left = f"images-of-a-test/.{id_of(NAMES[0])}.building"
    place.run("sh", "-c", f"mkdir -p {left}.storage/a && touch {left}.storage/a/b {left}.env {left}.sif")
    async with bench.adapter() as slurm:
        await slurm.create_container(wants(bench, place))
    assert place.remains() == []
    assert len(place.images()) == 1


async def test_a_build_has_no_more_time_than_an_admin_gives_it(bench: Bench, place: Place) -> None:
    with place.counted(held=True):
        error = await fails(bench, wants(bench, place), build_timeout_s=1)
    assert "it took too long" in str(error)
    assert (place.images(), place.remains()) == ([], [])


async def test_a_registry_that_goes_away_in_the_middle_of_a_layer_is_said_so(
    bench: Bench, place: Place, bed: Testbed
) -> None:
    place.run("rm", "-rf", ".apptainer/cache")
    async with breaking_line(bed, 5005, 200_000) as host:
        error = await fails(bench, from_registry(wants(bench, place), host))
    assert isinstance(error, Unavailable)
    assert "the connection to its registry broke" in str(error)
    assert (place.images(), place.remains()) == ([], [])


async def test_a_layer_that_is_not_what_it_should_be_is_not_taken(bench: Bench, place: Place, bed: Testbed) -> None:
    place.run("rm", "-rf", ".apptainer/cache")
    with poisoned(bed):
        error = await fails(bench, wants(bench, place))
    assert "not what its digest promises" in str(error)
    assert (place.images(), place.remains()) == ([], [])


async def test_a_full_disk_is_said_so(bench: Bench, place: Place, bed: Testbed) -> None:
    small = f"/home/{place.user}/images-of-a-test"
    options = f"size=600k,mode=0700,uid={bed.cluster.user(place.user).uid}"
    bed.cluster.run("login", ["mount", "-t", "tmpfs", "-o", options, "tmpfs", small], check=True)
    try:
        error = await fails(bench, wants(bench, place))
        assert place.run("find", "images-of-a-test", "-name", "*.building*") == ""
    finally:
        bed.cluster.run("login", ["umount", small], check=True)
    assert isinstance(error, ResourceExhausted)
    assert "no space is left" in str(error)


@BOTH_WAYS
@pytest.mark.parametrize("where", ["login", "job"])
async def test_a_private_registry_is_pulled_from_and_nothing_of_its_password_stays(
    bench: Bench, place: Place, bed: Testbed, tmp_path: Path, where: str
) -> None:
    with registry(bed, tmp_path, 5000, private=True) as host:
        bench.images = Sources(registry=host, auth=RegistryAuth(username=USER, password=PASSWORD))
        spec = from_registry(wants(bench, place), host)
        async with bench.adapter(build_in=where) as slurm:
            await slurm.create_container(spec)
        assert len(place.images()) == 1
        assert place.run("sh", "-c", f"grep -rl {PASSWORD} . || true") == ""
        bench.images = Sources(registry=host, auth=RegistryAuth(username=USER, password="wrong"))
        other = replace(spec, image=replace(spec.image, id=image_id("docker://another")))
        error = await fails(bench, replace(other, id=wants(bench, place).id), build_in=where)
        assert isinstance(error, PermissionDenied)
        assert "imagePullSecret" in str(error)
        assert "wrong" not in str(error).partition("imagePullSecret")[2].partition(":")[2]


async def test_a_password_is_on_no_command_line_while_an_image_is_built(
    bench: Bench, place: Place, bed: Testbed, tmp_path: Path
) -> None:
    with registry(bed, tmp_path, 5000, private=True) as host, place.counted(held=True) as hold:
        bench.images = Sources(registry=host, auth=RegistryAuth(username=USER, password=PASSWORD))
        async with bench.adapter() as slurm:
            creation = asyncio.ensure_future(slurm.create_container(from_registry(wants(bench, place), host)))

            async def begun() -> bool:
                return place.calls == 1

            await eventually(begun, "a build")
            assert PASSWORD not in bed.cluster.run("login", ["ps", "-eo", "args"], check=True).stdout
            (secret,) = place.directory.glob(".*.env")
            assert secret.stat().st_mode & 0o077 == 0
            hold.unlink()
            await creation


async def test_a_registry_without_tls_is_pulled_from_if_an_admin_names_it(
    bench: Bench, place: Place, bed: Testbed, tmp_path: Path
) -> None:
    with registry(bed, tmp_path, 5001, tls=False) as host:
        spec = from_registry(wants(bench, place), host)
        error = await fails(bench, spec)
        assert "HTTP without TLS" in str(error)
        bench.images = Sources(registry=host, plain_http=True)
        async with bench.adapter() as slurm:
            if place.user == "bob":
                with pytest.raises(FailedPrecondition, match="over HTTPS alone"):
                    await slurm.create_container(spec)
            else:
                await slurm.create_container(spec)


async def test_a_file_of_apptainers_comes_from_a_registry(bench: Bench, place: Place) -> None:
    if place.user == "bob":
        pytest.skip("Charliecloud has no such files")
    uri = "oras://registry.test/test/pushed:1"
    spec = bench.spec(["/bin/true"], user=place.user)
    async with bench.adapter() as slurm:
        await slurm.create_container(spec)
        place.run("sh", "-c", f"apptainer push images-of-a-test/*.sif {uri}")
        other = replace(wants(bench, place), image=replace(spec.image, id=image_id(uri), source=uri))
        await slurm.create_container(other)
    assert len(place.images()) == 2


async def test_an_image_is_built_by_a_job(bench: Bench, place: Place) -> None:
    async with bench.adapter(build_in="job", job_options_default="--nice=1") as slurm:
        spec = bench.spec(["/bin/echo", "built by a job"], user=place.user)
        await slurm.create_container(spec)
        name = f"multicri-build-{id_of(NAMES[0])[:16]}"
        listing = ["squeue", "-h", "-t", "all", "-u", place.user, "-n", name, "-o", "%T"]
        done = bench.bed.cluster.run("login", listing, check=True)
        assert done.stdout.split() == ["COMPLETED"]
        await slurm.start_container(spec.id)
        await bench.report(spec.id, Phase.EXITED)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"built by a job\n"
        await slurm.remove_container(spec.id)
    assert place.remains() == []


async def test_charliecloud_runs_an_image_that_is_one_file(bench: Bench, place: Place) -> None:
    if place.user == "alice":
        pytest.skip("Apptainer's images are files anyway")
    async with bench.adapter(image_builder="charliecloud-squashfs", image_checksum=True) as slurm:
        spec = bench.spec(args=["one"], user=place.user, image=NAMES[1])
        await slurm.create_container(spec)
        assert [Path(name).suffix for name in place.images()] == [".squashfs"]
        await slurm.start_container(spec.id)
        assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 0
        said = await everything(slurm, spec.id, OutputStream.STDOUT)
        assert said == b"in /var/tool, TOOL=of the image\n<one>\n"
        await slurm.remove_container(spec.id)
    assert place.remains() == []


@BOTH_WAYS
async def test_a_removed_image_is_kept_until_its_last_container_is_gone(bench: Bench, place: Place) -> None:
    images = bench.images
    assert isinstance(images, Sources)
    async with bench.adapter() as slurm:
        spec = wants(bench, place)
        await slurm.create_container(spec)
        images.gone = True
        assert isinstance(slurm, KeepsImages)
        await slurm.forget_image(spec.image)
        await slurm.start_container(spec.id)
        assert (await bench.report(spec.id, Phase.EXITED)).exit_code == 0
        assert len(place.images()) == 1
        keeps_login = wants(bench, place, NAMES[1])  # whose credentials reach the account
        await slurm.create_container(keeps_login)
        await slurm.remove_container(spec.id)

        async def gone() -> bool:
            kept = [name.partition(".")[0] for name in place.images()]
            return kept == [id_of(NAMES[1])] and slurm.builds(spec.image.id) == ()

        await eventually(gone, "the image is removed")


async def test_an_image_that_was_removed_while_no_proxy_ran_is_removed_by_the_next(bench: Bench, place: Place) -> None:
    first, second = wants(bench, place), wants(bench, place, NAMES[1])
    async with bench.adapter() as slurm:
        await slurm.create_container(first)
        await slurm.create_container(second)
        await slurm.remove_container(first.id)

    class Knows(Sources):
        def find(self, name: str) -> Image | None:
            return super().find(name) if name == second.image.id else None

    bench.images = Knows()
    async with bench.adapter():

        async def gone() -> bool:
            return [name.partition(".")[0] for name in place.images()] == [id_of(NAMES[1])]

        await eventually(gone, "the image is removed")


@BOTH_WAYS
@pytest.mark.parametrize("limit", [{"image_directory_bytes": 1024}, {"image_directory_count": 1}])
async def test_the_image_that_was_not_used_for_longest_makes_room(
    bench: Bench, place: Place, limit: Mapping[str, int]
) -> None:
    async with bench.adapter(**limit) as slurm:
        first, second = (wants(bench, place, name) for name in NAMES)
        await slurm.create_container(first)
        await slurm.remove_container(first.id)
        await slurm.create_container(second)
        assert [name.partition(".")[0] for name in place.images()] == [id_of(NAMES[1])]
        again = wants(bench, place)
        await slurm.create_container(again)  # there is no room for both, but both are needed
        assert len(place.images()) == 2


@BOTH_WAYS
async def test_a_file_that_is_not_what_was_built_is_built_again(bench: Bench, place: Place) -> None:
    if place.user == "bob":
        pytest.skip("a directory has no sum")
    async with bench.adapter(image_checksum=True) as slurm:
        await slurm.create_container(wants(bench, place))
        (image,) = place.directory.glob("*.sif")
        good = image.read_bytes()
        await slurm.create_container(wants(bench, place))
        assert image.read_bytes() == good
        image.write_bytes(good[:-4096] + bytes(4096))
        with place.counted():
            await slurm.create_container(wants(bench, place))
            assert place.calls == 1
