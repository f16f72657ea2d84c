"""What a container was asked to be, in ch-run's words. Pure.

Source: ch-run(1) of Charliecloud 0.31 to 0.38.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multicri_charliecloud.settings import Identity, Settings
from multicri_charliecloud.signals import number_of
from multicri_charliecloud.support import CAPABILITIES, FIELDS, GROUPS, SYSCTLS
from multicri_proxy.api.adapter import ContainerSpec, Demand, Dns, Mount, Pod
from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument
from multicri_proxy.api.image import ImageConfig
from multicri_proxy.api.support import Answer, of_field

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LONGEST_STRING_BYTES = 131_071
"""Linux takes no longer argument or ``NAME=value``: MAX_ARG_STRLEN, less its closing NUL."""

LARGEST_TOTAL_BYTES = 1024 * 1024
LARGEST_ID = 2**32 - 2
NEWLINES_SINCE = "--set-env0"
"""The option of ch-run that parts variables by NUL bytes; from 0.34 on."""

LOW_PORTS = Demand(CAPABILITIES, "NET_BIND_SERVICE")
"""In a network namespace of the pod's own all ports are for everybody."""

_HOSTNAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,62}[A-Za-z0-9])?", re.ASCII)
_DNS_WORD = re.compile(r"[!-~]{1,253}", re.ASCII)
_SYSCTL = re.compile(r"[a-z0-9]([-_a-z0-9]*[a-z0-9])?([./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*", re.ASCII)
LONGEST_SYSCTL = 1024

_NEVER_INHERITED = (
    *("LD_", "GLIBC_", "LIBC_", "MALLOC_", "GCONV", "LOC", "NLS", "LC_", "LANG", "TZ", "TMP", "RES_", "HOSTALIASES"),
    *("GETCONF", "FUSE", "CH_", "PATH", "HOME", "USER"),
)
"""How names begin that the C library, or ch-run, looks at."""

_NAME = re.compile(r"[!-<>-~]+", re.ASCII)  # what Kubernetes' relaxed check allows: printable ASCII without "="


@dataclass(frozen=True, slots=True)
class User:
    """Inside of the container."""

    user_id: int
    group_id: int


def refusals(spec: ContainerSpec, *, is_root: bool) -> list[Demand]:
    """What it asks for that cannot be honoured on this node. is_root: the daemon is."""
    found = [one for one in spec.security.demands if of_field(FIELDS, one.field).answer is Answer.BY_POLICY]
    if spec.pod.network_namespace:
        found = [one for one in found if one != LOW_PORTS]
    given = groups_of(spec, is_root=is_root)
    found += [Demand(GROUPS, str(group)) for group in spec.security.supplemental_groups if group not in given]
    settable = sysctls_of(spec, is_root=is_root)
    found += [Demand(SYSCTLS, name) for name in spec.pod.sysctls if name not in settable]
    return found


def groups_of(spec: ContainerSpec, *, is_root: bool) -> list[int]:
    """Those of the node that its processes are in, so that they can use volumes. Never root's."""
    return [_id(group) for group in spec.security.supplemental_groups if group] if is_root else []


def sysctls_of(spec: ContainerSpec, *, is_root: bool) -> dict[str, str]:
    """Those that are of a namespace which is not the node's. Source: sysctl(8); ipc_namespaces(7)."""
    kinds = ["net."] if spec.pod.network_namespace else []
    kinds += [] if spec.security.node_ipc else ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
    dotted = {name: name if "/" not in name else name.replace("/", ".") for name in spec.pod.sysctls}
    return {
        name: value for name, value in spec.pod.sysctls.items() if is_root and dotted[name].startswith(tuple(kinds))
    }


def check(spec: ContainerSpec, settings: Settings, *, is_root: bool) -> None:
    """Raises InvalidArgument for what no version can, and by policy for what cannot be honoured."""
    if settings.policy == "strict" and (refused := refusals(spec, is_root=is_root)):
        raise InvalidArgument(
            f"{'; '.join(map(str, refused))}: cannot be honoured by Charliecloud; leave it out, "
            "or have an admin set charliecloud.policy to permissive"
        )
    if spec.working_dir and not spec.working_dir.startswith("/"):
        raise InvalidArgument(f"working_dir {spec.working_dir!r}: must be an absolute path")
    for mount in spec.mounts:
        _check_mount(mount)
    _check_pod(spec.pod)
    total = 0
    for number, word in enumerate((*spec.command, *spec.args)):
        total += _counted(f"command and args: word {number}", len(word.encode("utf-8", "surrogatepass")))
    for name, value in spec.env:
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"env {name[:80]!r}: a name must consist of printable ASCII characters other than =")
        total += _counted(f"env {name}", len(name) + 1 + len(value))
    if total > LARGEST_TOTAL_BYTES:
        raise InvalidArgument(f"command, args and env have {total} bytes together: at most {LARGEST_TOTAL_BYTES}")


def _check_pod(pod: Pod) -> None:
    if pod.hostname and not _HOSTNAME.fullmatch(pod.hostname):
        raise InvalidArgument(f"hostname {pod.hostname[:80]!r}: must be 1 to 64 of A-Z a-z 0-9 - and . (Linux)")
    for kind, words in (("servers", pod.dns.servers), ("searches", pod.dns.searches), ("options", pod.dns.options)):
        for word in words:
            if not _DNS_WORD.fullmatch(word):
                raise InvalidArgument(f"dns_config.{kind}: {word[:80]!r} is no word of a resolv.conf")
    for name, value in pod.sysctls.items():
        if not _SYSCTL.fullmatch(name) or not value.isprintable() or len(value) > LONGEST_SYSCTL:
            raise InvalidArgument(f"linux.sysctls: {name[:80]!r}: is no sysctl, or its value is none")


def resolv_conf(dns: Dns) -> str:
    """Empty if the node's is wanted. Source: resolv.conf(5)."""
    lines = [f"nameserver {server}" for server in dns.servers]
    lines += [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def _check_mount(mount: Mount) -> None:
    path = mount.container_path
    if not path.startswith("/") or ".." in path.split("/"):
        raise InvalidArgument(f"mounts: container_path {path!r} must be an absolute path without '..'")
    if ":" in path or "\n" in path:
        raise InvalidArgument(f"mounts: container_path {path!r}: ch-run takes no path with a colon")
    clean = path.rstrip("/") or "/"
    if clean in {"/", "/dev", "/proc", "/sys"} or clean.startswith(("/proc/", "/sys/")):
        raise InvalidArgument(f"mounts: container_path {path!r}: Charliecloud has the node's there")


def _counted(what: str, length: int) -> int:
    if length > LONGEST_STRING_BYTES:
        raise InvalidArgument(f"{what} has {length} bytes, and Linux takes {LONGEST_STRING_BYTES}")
    return length + 1


def stop_signal_of(spec: ContainerSpec, of_image: str) -> int:
    """The pod's, else the image's, else SIGTERM. Raises FailedPrecondition if Linux has no such signal."""
    name = spec.stop_signal or of_image or "SIGTERM"
    number = number_of(name)
    if number is None:
        raise FailedPrecondition(f"stop_signal {name[:80]!r}: there is no such signal")
    return number


def command_of(spec: ContainerSpec, config: ImageConfig) -> tuple[str, ...]:
    """By Kubernetes' rules. Raises FailedPrecondition if neither the pod nor the image names one."""
    command = (*spec.command, *spec.args)
    if not spec.command:
        command = (*config.entrypoint, *(spec.args or config.cmd))
    if not command:
        raise FailedPrecondition("the pod names no command, and the image has neither an entrypoint nor a command")
    return command


def environment_of(spec: ContainerSpec, config: ImageConfig, user: User) -> dict[str, bytes]:
    """The image's variables, and over them the pod's."""
    variables = {"PATH": DEFAULT_PATH, "HOME": b"/root" if user.user_id == 0 else b"/"}
    for line in config.env:
        name, equals, value = line.partition("=")
        if equals and _NAME.fullmatch(name) and "\n" not in value and "\0" not in value:
            variables[name] = value.encode("utf-8", "surrogateescape")
    if spec.pod.hostname:
        variables["HOSTNAME"] = spec.pod.hostname.encode()
    return variables | dict(spec.env)


def environment_file(variables: Mapping[str, bytes], options: frozenset[str]) -> bytes:
    """For ``--set-env`` or ``--set-env0``, with ``--env-no-expand``: one pair of quotes is taken off each value."""
    inherited = inherited_of(variables, options)
    end = b"\0" if NEWLINES_SINCE in options else b"\n"
    there = [(name, value) for name, value in variables.items() if name not in inherited]
    return b"".join(name.encode() + b"='" + value + b"'" + end for name, value in there)


def inherited_of(variables: Mapping[str, bytes], options: frozenset[str]) -> dict[str, bytes]:
    """What an older ch-run passes on from its own environment alone: values with newlines.

    Raises InvalidArgument for one that would change what ch-run itself does, outside of the container.
    """
    if NEWLINES_SINCE in options:
        return {}
    found = {name: value for name, value in variables.items() if b"\n" in value}
    for name in found:
        if name.startswith(_NEVER_INHERITED):
            raise InvalidArgument(
                f"env {name}: the value holds a newline, which for this name ch-run takes from version 0.34 on"
            )
    return found


def user_of(spec: ContainerSpec, config: ImageConfig, passwd: bytes, group: bytes) -> User:
    """The pod's, else the image's, else root. passwd, group: the image's files.

    Raises FailedPrecondition if a name is not in them.
    """
    asked = spec.security
    name, _, group_name = config.user.partition(":")
    if asked.user is not None:
        name, group_name = str(asked.user), ""
    elif asked.user_name:
        name, group_name = asked.user_name, ""
    user_id, own_group = _account(name or "0", passwd)
    if asked.group is not None:
        return User(user_id, _id(asked.group))
    return User(user_id, _group(group_name, group) if group_name else own_group)


def owners_of(user: User, identity: Identity | None) -> list[list[int]] | None:
    """Which ids of volumes are to be swapped, of users and of groups, so that those of the user are the identity's.

    None: the daemon is not root, or the container's user is. Root's own are never anybody else's.
    """
    if identity is None or not user.user_id:
        return None
    return [[user.user_id, identity.user_id], [user.group_id or identity.group_id, identity.group_id]]


def _account(name: str, passwd: bytes) -> tuple[int, int]:
    for fields in _lines(passwd):
        if len(fields) > 3 and name in (fields[0], fields[2]) and fields[2].isdigit() and fields[3].isdigit():
            return _id(int(fields[2])), _id(int(fields[3]))
    if name.isdigit():
        return _id(int(name)), 0
    raise FailedPrecondition(f"user {name[:80]!r}: is not in the image's /etc/passwd")


def _group(name: str, group: bytes) -> int:
    for fields in _lines(group):
        if len(fields) > 2 and name in (fields[0], fields[2]) and fields[2].isdigit():
            return _id(int(fields[2]))
    if name.isdigit():
        return _id(int(name))
    raise FailedPrecondition(f"group {name[:80]!r}: is not in the image's /etc/group")


def _id(number: int) -> int:
    if not 0 <= number <= LARGEST_ID:
        raise InvalidArgument(f"user and group ids: {number} is none")
    return number


def _lines(text: bytes) -> list[list[str]]:
    return [line.split(":") for line in text.decode("utf-8", "replace").splitlines()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Of the node, of one container; all absolute. binds: source and target of each ``--bind``, in order."""

    ch_run: str
    image: str
    env_file: str
    binds: tuple[tuple[str, str], ...]


def words_of(
    command: Sequence[str],
    working_dir: str,
    user: User,
    paths: Paths,
    options: frozenset[str],
    *,
    readonly: bool,
    unset: Sequence[str],
) -> list[str]:
    """The command line of ch-run. It has no variable's value, which ch-run writes to syslog.

    unset: names, or patterns of them, that the container does not inherit.
    """
    set_env = "--set-env0" if NEWLINES_SINCE in options else "--set-env"
    words = [
        paths.ch_run,
        *(f"--unset-env={name}" for name in unset),
        "--env-no-expand",
        f"{set_env}={paths.env_file}",
        "--no-passwd",
    ]
    words += ["--no-home"] if "--no-home" in options and "--home" not in options else []
    words += [] if readonly else ["--write"]
    words += [f"--uid={user.user_id}", f"--gid={user.group_id}"]
    words += [f"--bind={source}:{target}" for source, target in paths.binds]
    return [*words, f"--cd={working_dir}", paths.image, "--", *command]
