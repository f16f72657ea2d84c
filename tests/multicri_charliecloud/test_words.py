"""What is refused, and what ch-run is told: without running anything."""

import itertools
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from multicri_charliecloud import inside
from multicri_charliecloud.job import (
    User,
    check,
    environment_file,
    inherited_of,
    owners_of,
    resolv_conf,
    stop_signal_of,
    sysctls_of,
    user_of,
)
from multicri_charliecloud.owners import swapped
from multicri_charliecloud.settings import Identity, read_settings
from multicri_charliecloud.signals import number_of

from multicri_proxy.api.adapter import ContainerSpec, Demand, Dns, Pod, SecurityContext
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.api.ids import ContainerId, ImageId, PodSandboxId
from multicri_proxy.api.image import Image, ImageConfig
from multicri_proxy.cri.v1 import runtime_pb2 as cri

SPEC = ContainerSpec(
    id=ContainerId("c" * 64),
    pod=Pod(
        sandbox_id=PodSandboxId("s" * 64),
        name="pod",
        namespace="default",
        uid="u",
        attempt=0,
        labels={},
        annotations={},
    ),
    name="main",
    attempt=0,
    image=Image(id=ImageId("sha256:0"), source="docker://x/y:1", names=()),
    command=("true",),
    args=(),
    env=(),
    working_dir="",
    mounts=(),
)
PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/false\n"
GROUP = b"root:x:0:\nstaff:x:50:web\n"


def test_what_cannot_be_honoured_is_refused_by_name_or_ignored_by_policy() -> None:
    place = "ContainerConfig.linux.security_context"
    demands = (Demand(f"{place}.privileged"), Demand("ContainerConfig.devices", "/dev/sda"))
    pod = replace(SPEC.pod, sysctls={"net.core.somaxconn": "1", "kernel.shmmax": "2", "vm.swappiness": "3"})
    spec = replace(SPEC, pod=pod, security=SecurityContext(demands=demands, supplemental_groups=(0, 7)))
    for is_root, more in ((True, ("0",)), (False, ("0", "7"))):
        with pytest.raises(InvalidArgument) as raised:
            check(spec, read_settings({}), is_root=is_root)
        refused = str(raised.value).partition(": cannot be honoured")[0].split("; ")
        names = ["net.core.somaxconn", *([] if is_root else ["kernel.shmmax"]), "vm.swappiness"]
        assert refused == [
            "linux.security_context.privileged",
            "devices: /dev/sda",
            *(f"linux.security_context.supplemental_groups: {group}" for group in more),
            *(f"linux.sysctls: {name}" for name in names),
        ]
        check(spec, read_settings({"policy": "permissive"}), is_root=is_root)


def test_sysctls_of_the_network_are_honoured_in_one_of_the_pods_own() -> None:
    given = {"net.core.somaxconn": "1", "net/ipv4/tcp_rmem": "4096 1 2"}
    pod = replace(SPEC.pod, sysctls=given, network_namespace="/run/netns/x")
    assert sysctls_of(replace(SPEC, pod=pod), is_root=True) == given
    assert sysctls_of(replace(SPEC, pod=pod), is_root=False) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hostname": "a b"}, "hostname 'a b'"),
        ({"hostname": "x" * 65}, "hostname"),
        ({"dns": Dns(servers=("1.1.1.1\nsearch evil",))}, "dns_config.servers"),
        ({"dns": Dns(options=("",))}, "dns_config.options"),
        ({"sysctls": {"net/../../../etc/passwd": "1"}}, "linux.sysctls"),
        ({"sysctls": {"net.core.somaxconn": "1\n2"}}, "linux.sysctls"),
    ],
)
def test_what_no_pod_can_have_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        check(replace(SPEC, pod=replace(SPEC.pod, **change)), read_settings({"policy": "permissive"}), is_root=True)


def test_a_resolv_conf_has_a_line_for_each_server() -> None:
    dns = Dns(servers=("10.0.0.10", "fd00::a"), searches=("default.svc.cluster.local", "svc"), options=("ndots:5",))
    assert resolv_conf(dns) == (
        "nameserver 10.0.0.10\nnameserver fd00::a\nsearch default.svc.cluster.local svc\noptions ndots:5\n"
    )
    assert resolv_conf(Dns()) == ""


def test_a_newline_is_carried_in_ch_runs_own_environment_where_its_file_cannot_have_one() -> None:
    variables = {"ONE": b"'a' $b", "TWO": b"x\ny"}
    assert environment_file(variables, frozenset({"--set-env0"})) == b"ONE=''a' $b'\0TWO='x\ny'\0"
    assert inherited_of(variables, frozenset({"--set-env0"})) == {}
    assert environment_file(variables, frozenset()) == b"ONE=''a' $b'\n"
    assert inherited_of(variables, frozenset()) == {"TWO": b"x\ny"}


@pytest.mark.parametrize("name", ["LD_PRELOAD", "GLIBC_TUNABLES", "PATH", "HOME", "LANG", "TMPDIR"])
def test_no_newline_goes_to_ch_run_itself_by_a_name_that_changes_what_it_does(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name}.*0.34"):
        inherited_of({name: b"/a\n"}, frozenset())


@pytest.mark.parametrize(
    ("asked", "of_image", "user"),
    [
        (SecurityContext(), "", User(0, 0)),
        (SecurityContext(), "web", User(33, 34)),
        (SecurityContext(), "web:staff", User(33, 50)),
        (SecurityContext(), "1000:7", User(1000, 7)),
        (SecurityContext(user=33), "root", User(33, 34)),
        (SecurityContext(user=5, group=6), "web", User(5, 6)),
        (SecurityContext(user_name="web"), "", User(33, 34)),
    ],
)
def test_a_container_is_who_the_pod_says_else_who_the_image_says(
    asked: SecurityContext, of_image: str, user: User
) -> None:
    assert user_of(replace(SPEC, security=asked), ImageConfig(user=of_image), PASSWD, GROUP) == user


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1000, 65534), (65534, 1000), (7, 7), (5, 2**32 - 2)])
def test_swapped_ids_are_all_there_once(one: int, other: int) -> None:
    ranges = [[int(word) for word in line.split()] for line in swapped(one, other).splitlines()]
    for which in (0, 1):
        covered = sorted((line[which], line[2]) for line in ranges)
        assert covered[0][0] == 0
        assert all(begin + count == after for (begin, count), (after, _) in itertools.pairwise(covered))
        assert covered[-1][0] + covered[-1][1] == 2**32 - 1
    moved = {inside: outside for inside, outside, _ in ranges if inside != outside}
    assert moved == ({} if one == other else {one: other, other: one})


def test_volumes_of_root_are_nobody_elses() -> None:
    identity = Identity(name="multicri", user_id=990, group_id=980)
    assert owners_of(User(0, 0), identity) is None
    assert owners_of(User(1000, 0), identity) == [[1000, 990], [980, 980]]
    assert owners_of(User(1000, 50), identity) == [[1000, 990], [50, 980]]
    assert owners_of(User(1000, 50), None) is None


@pytest.mark.parametrize(
    ("asked", "of_image", "number"),
    [
        ("", "", signal.SIGTERM),
        ("", "SIGQUIT", signal.SIGQUIT),
        ("", "quit", signal.SIGQUIT),
        ("", "3", signal.SIGQUIT),
        ("SIGUSR1", "SIGQUIT", signal.SIGUSR1),
        ("", "SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMINPLUS3", "", signal.SIGRTMIN + 3),
        ("SIGRTMAXMINUS1", "", signal.SIGRTMAX - 1),
        ("SIGRTMAX", "", signal.SIGRTMAX),
    ],
)
def test_a_container_is_asked_to_end_as_the_pod_or_the_image_says(asked: str, of_image: str, number: int) -> None:
    assert stop_signal_of(replace(SPEC, stop_signal=asked), of_image) == number


@pytest.mark.parametrize("name", ["SIGNONE", "0", "65", "-3", "SIGRTMIN+99", "٣"])
def test_a_signal_that_linux_has_not_is_told(name: str) -> None:
    with pytest.raises(FailedPrecondition, match="stop_signal"):
        stop_signal_of(SPEC, name)


@pytest.mark.parametrize("name", [one.name for one in cri.Signal.DESCRIPTOR.values if one.number])
def test_each_signal_of_cri_is_one_of_linux(name: str) -> None:
    assert number_of(name)


def test_a_user_that_the_image_does_not_know_is_told() -> None:
    with pytest.raises(FailedPrecondition, match="nobody-here"):
        user_of(SPEC, ImageConfig(user="nobody-here"), PASSWD, GROUP)


def test_no_link_leads_out_of_the_image(tmp_path: Path) -> None:
    root, outside = tmp_path / "image", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "absolute").symlink_to("/away")
    (root / "relative").symlink_to("../../outside")
    (root / "loop").symlink_to("loop")
    assert inside.make(str(root), "/absolute/here", directory=True) == "/away/here"
    assert inside.make(str(root), "/relative/file", directory=False) == "/outside/file"
    assert (root / "outside/file").is_file()
    assert list(outside.iterdir()) == []
    with pytest.raises(InvalidArgument, match="links"):
        inside.resolve(str(root), "/loop")


def test_settings_are_refused_by_name() -> None:
    for section, message in (
        ({"directory": "relative"}, "charliecloud.directory"),
        ({"policy": "lax"}, "charliecloud.policy"),
        ({"colour": 1}, "charliecloud.colour"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            read_settings(section)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's daemon does not look at it")
@pytest.mark.parametrize(("user", "message"), [("root", "must not be root"), ("nobody-at-all", "no account")])
def test_root_must_name_somebody_else(user: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        read_settings({"user": user})
