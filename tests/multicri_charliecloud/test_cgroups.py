"""Control groups of both versions, and /proc: trees of files as Linux shows them."""

from pathlib import Path

import pytest
from multicri_charliecloud import cgroup_member
from multicri_charliecloud.cgroups import Cgroups, Used, inner_path, limit, used, weight_of
from multicri_charliecloud.proc_usage import PAGE_BYTES, TICK_NS, used_by
from multicri_charliecloud.usage import Measured, measure, usage_of

from multicri_proxy.api.adapter import Resources, Usage
from multicri_proxy.api.errors import FailedPrecondition
from multicri_proxy.api.ids import ContainerId

MIB = 1 << 20
CPU_STAT = """\
usage_usec 2534567
user_usec 2000000
system_usec 534567
nr_periods 12
nr_throttled 3
throttled_usec 90000
nr_bursts 0
burst_usec 0
"""
MEMORY_STAT = """\
anon 9437184
file 12582912
kernel 1048576
kernel_stack 49152
shmem 0
inactive_anon 9437184
active_anon 0
inactive_file 8388608
active_file 4194304
"""
MEMORY_EVENTS = """\
low 0
high 0
max 31
oom 2
oom_kill 2
oom_group_kill 1
"""
MEMORY_STAT_V1 = """\
cache 12582912
rss 9437184
inactive_file 0
hierarchical_memory_limit 67108864
total_cache 12582912
total_inactive_file 8388608
total_active_file 4194304
"""
OOM_CONTROL_V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
OWN_V1 = "4:memory:/users/alice\n2:cpu,cpuacct:/users/alice\n1:pids:/\n0::/\n"


def files(directory: Path, **contents: str) -> Path:
    """As a kernel would put them there with the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name.replace("__", ".")).write_text(content)
    return directory


def unified(path: Path) -> Path:
    return files(
        path,
        cgroup__procs="",
        cgroup__subtree_control="",
        memory__max="max\n",
        memory__current="20971520\n",
        memory__stat=MEMORY_STAT,
        memory__events=MEMORY_EVENTS,
        memory__oom__group="0\n",
        memory__swap__max="max\n",
        cpu__max="max 100000\n",
        cpu__weight="100\n",
        cpu__stat=CPU_STAT,
    )


def test_limits_are_set_in_version_2(tmp_path: Path) -> None:
    group = {"": str(unified(tmp_path / "one"))}
    wanted = Resources(memory_bytes=64 * MIB, cpu_millicores=1500, cpu_request_millicores=500)
    assert limit(group, wanted) == []
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "cpu.weight")
    assert [(tmp_path / "one" / name).read_text() for name in names] == ["67108864", "0", "1", "150000 100000", "20"]
    assert limit(group, Resources(memory_bytes=0, cpu_millicores=0)) == []
    assert (tmp_path / "one/memory.max").read_text() == "max"
    assert (tmp_path / "one/cpu.max").read_text() == "max 100000"


def test_limits_are_set_in_version_1(tmp_path: Path) -> None:
    memory = files(tmp_path / "m", memory__limit_in_bytes="9223372036854771712\n", memory__memsw__limit_in_bytes="-1")
    cpu = files(tmp_path / "c", cpu__shares="1024\n", cpu__cfs_period_us="100000\n", cpu__cfs_quota_us="-1\n")
    group = {"memory": str(memory), "cpu": str(cpu)}
    assert limit(group, Resources(memory_bytes=MIB, cpu_millicores=1, cpu_request_millicores=0)) == []
    told = {file.name: file.read_text() for directory in (memory, cpu) for file in directory.iterdir()}
    assert told == {
        "memory.limit_in_bytes": "1048576",
        "memory.memsw.limit_in_bytes": "1048576",
        "cpu.shares": "2",
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "1000",
    }


def test_what_a_node_does_not_delegate_is_told(tmp_path: Path) -> None:
    wanted = Resources(memory_bytes=MIB, cpu_millicores=100, cpu_request_millicores=100)
    assert limit({}, wanted) == ["memory", "cpu"]
    assert limit({"": str(files(tmp_path / "one", cpu__max="max 100000\n"))}, wanted) == ["memory"]
    assert limit({"": str(tmp_path / "gone")}, Resources()) == []


def test_usage_is_read_in_both_versions(tmp_path: Path) -> None:
    group = {"": str(unified(tmp_path / "one"))}
    assert used(group) == Used(cpu_ns=2_534_567_000, memory_bytes=12 * MIB)
    assert cgroup_member.oom_kills(group) == 2
    memory = files(
        tmp_path / "m",
        memory__usage_in_bytes="20971520\n",
        memory__stat=MEMORY_STAT_V1,
        memory__oom_control=OOM_CONTROL_V1,
    )
    group = {"memory": str(memory), "cpuacct": str(files(tmp_path / "c", cpuacct__usage="2534567000\n"))}
    assert used(group) == Used(cpu_ns=2_534_567_000, memory_bytes=12 * MIB)
    assert cgroup_member.oom_kills(group) == 2
    gone = {"": str(tmp_path / "gone")}
    assert (used(gone), cgroup_member.oom_kills(gone)) == (Used(), 0)
    assert cgroup_member.remove(gone.values())


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262_144, 10_000)])
def test_a_weight_is_that_of_the_shares(shares: int, weight: int) -> None:
    assert weight_of(shares) == weight


def test_an_ordinary_user_has_what_is_delegated_above_the_daemons_own_group_in_version_2(tmp_path: Path) -> None:
    files(tmp_path, cgroup__controllers="cpu memory pids\n")  # not its own: without cgroup.procs
    service = unified(tmp_path / "user.slice/user@7.service")
    unified(service / "app.slice/proxy.service")
    found = Cgroups.found(tmp_path, "0::/user.slice/user@7.service/app.slice/proxy.service\n")
    assert found
    group = found.group("c1", "/kubepods/pod1")
    assert group == {"": str(service / "multicri-charliecloud/c1")}
    found.make(group)
    assert Path(group[""]).is_dir()
    assert (service / "cgroup.subtree_control").read_text() == "+pids"  # each is written on its own
    assert Cgroups.found(tmp_path, "0::/user.slice/user@7.service\n") is None  # it has the daemon in it


def test_a_delegated_group_of_version_1_may_be_the_daemons_own(tmp_path: Path) -> None:
    for controller in ("memory", "cpu", "cpuacct", "pids"):
        files(tmp_path / controller / "users/alice", cgroup__procs="")
    found = Cgroups.found(tmp_path, OWN_V1)
    assert found
    group = found.group("c1", "")
    below = "users/alice/multicri-charliecloud/c1"
    assert group == {name: str(tmp_path / name / below) for name in ("memory", "cpu", "cpuacct")}
    found.make(group)
    assert cgroup_member.remove(group.values())


def test_the_kubelets_group_of_the_pod_is_the_parent_if_it_is_there(tmp_path: Path) -> None:
    files(tmp_path, cgroup__controllers="memory\n")
    unified(tmp_path)
    pod = unified(tmp_path / "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice")
    found = Cgroups.found(tmp_path, "0::/system.slice/proxy.service\n")
    assert found
    assert found.group("c1", "kubepods-burstable-pod1.slice") == {"": str(pod / "c1")}
    assert found.group("c1", "/kubepods/podgone") == {"": str(tmp_path / "multicri-charliecloud/c1")}


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("", ""),
        ("/kubepods/besteffort/pod1", "kubepods/besteffort/pod1"),
        ("kubepods.slice", "kubepods.slice"),
        ("a-b-c.slice", "a.slice/a-b.slice/a-b-c.slice"),
    ],
)
def test_a_parent_is_a_path_or_a_slice(parent: str, path: str) -> None:
    assert inner_path(parent) == path


def test_a_parent_leads_nowhere_else() -> None:
    with pytest.raises(FailedPrecondition, match="cgroup_parent"):
        inner_path("/kubepods/../..")


def process(proc: Path, pid: int, namespace: int, ticks: tuple[int, int, int, int], pages: tuple[int, int]) -> None:
    directory = proc / str(pid)
    (directory / "ns").mkdir(parents=True)
    (directory / "ns/pid").symlink_to(f"pid:[{namespace}]")
    times = " ".join(map(str, ticks))
    (directory / "stat").write_text(f"{pid} (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 {times} 20 0 1 0 5 1 1\n")
    (directory / "statm").write_text(f"999 {pages[0]} {pages[1]} 1 0 1 0\n")


def test_without_control_groups_the_processes_of_a_containers_namespace_are_added_up(tmp_path: Path) -> None:
    process(tmp_path, 10, 77, (1, 2, 30, 4), (100, 40))
    process(tmp_path, 11, 77, (5, 0, 0, 0), (10, 10))
    process(tmp_path, 12, 1, (900, 0, 0, 0), (900, 0))
    (tmp_path / "13").mkdir()  # has just ended
    (tmp_path / "version").write_text("Linux")
    assert used_by({10, 99}, tmp_path) == {10: Used(cpu_ns=42 * TICK_NS, memory_bytes=60 * PAGE_BYTES)}


def test_a_container_without_a_group_is_measured_by_its_processes_and_one_that_is_gone_is_not(tmp_path: Path) -> None:
    group = {"": str(unified(tmp_path / "one"))}
    one, gone = ContainerId("1"), ContainerId("2")
    found = measure({one: Measured(2**22 + 1, group), gone: Measured(2**22 + 1, {})})
    assert found == {one: Used(cpu_ns=2_534_567_000, memory_bytes=12 * MIB)}


def test_processor_time_never_goes_back_and_has_a_rate_from_the_second_look_on() -> None:
    first = usage_of(Used(cpu_ns=500, memory_bytes=7), None, 1000)
    assert first == Usage(measured_at_ns=1000, cpu_ns=500, memory_bytes=7)
    second = usage_of(Used(cpu_ns=1500), first, 3000)
    assert second == Usage(measured_at_ns=3000, cpu_ns=1500, cpu_nano_cores=500_000_000)
    assert usage_of(Used(cpu_ns=1400), second, 4000).cpu_ns == 1500
