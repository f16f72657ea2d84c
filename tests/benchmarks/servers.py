"""Who is measured: the backend itself, and whoever passes its calls on. How each is started."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.programs import Daemon, run

DIRECT = "direct"

_STARTS_IN_S = 30

_NGINX = """\
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    upstream runtime {{
        server unix:{backend};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen unix:{socket} http2;
        client_max_body_size 16m;
        location / {{ grpc_pass grpc://runtime; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Somebody who answers CRI calls. command: its argv, given the directory that all its files lie in."""

    name: str
    command: Callable[[Path], tuple[str, ...]]


@contextmanager
def started(contender: Contender, directory: Path) -> Iterator[int]:
    """Run it while the context lasts, and give its pid once somebody can connect."""
    argv = contender.command(directory)
    daemon = Daemon(name=contender.name, argv=argv, pid_file=directory / "pid", log=directory / "log")
    pid = daemon.start()
    try:
        daemon.wait_ready("listens", socket_in(directory).is_socket, timeout_s=_STARTS_IN_S)
        yield pid
    finally:
        daemon.stop()


def socket_in(directory: Path) -> Path:
    """The socket that a contender listens on."""
    return directory / "cri.sock"


def contenders(*, crib: Path, directory: Path, python: str, more: Sequence[tuple[str, str]]) -> Iterator[Contender]:
    """The backend first, then all that stand before it.

    directory: that of the backend. python: the interpreter that has the proxy. more: names and interpreters of
    other versions of it.
    """
    backend = socket_in(directory)
    yield Contender(
        name=DIRECT, command=lambda own: (str(crib), "serve", str(socket_in(own)), str(directory / "answers"))
    )
    yield Contender(name="proxy", command=_proxy(python, backend))
    if _has_flag(python, "--dump"):
        yield Contender(name="proxy, dump name", command=_proxy(python, backend, "--dump", "name:.*"))
    for name, other in more:
        yield Contender(name=name, command=_proxy(other, backend))
    yield Contender(name="nginx", command=lambda own: _nginx(own, backend))


def _proxy(python: str, backend: Path, *flags: str) -> Callable[[Path], tuple[str, ...]]:
    admin = _has_flag(python, "--admin-socket")

    def command(directory: Path) -> tuple[str, ...]:
        settings = {
            "socket-path": socket_in(directory),
            "remote-runtime-endpoints": f"default:{backend}",
            "root-dir": directory / "root",
            "resources-cache-path": directory / "resources",
            "pod-ip": "192.0.2.1",
        }
        if admin:
            settings["admin-socket"] = directory / "admin.sock"
        given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        return (*_serve(python), *given, *flags)

    return command


def _serve(python: str) -> tuple[str, ...]:
    return (python, "-P", "-m", "multicri_proxy", "serve")  # -P: not the one that lies in the working directory


def _has_flag(python: str, flag: str) -> bool:
    return f"{flag} " in run([*_serve(python), "--help"], timeout_s=60).stdout


def _nginx(directory: Path, backend: Path) -> tuple[str, ...]:
    configuration = directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=directory, backend=backend, socket=socket_in(directory)))
    return ("nginx", "-e", "stderr", "-p", str(directory), "-c", str(configuration))
