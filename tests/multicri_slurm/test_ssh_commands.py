"""Commands over SSH that have ended before anybody could write to them: by a server that is as quick as none is."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
from multicri_slurm.dialing import Dialer
from multicri_slurm.host_keys import KnownHosts
from multicri_slurm.keys import Keys
from multicri_slurm.profiles import read_profiles
from multicri_slurm.ssh import Connection

from multicri_proxy.api.errors import Unavailable


class Everybody(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        return False


def end_at_once(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.stdout.write(b"said")
    process.exit(int(process.command or "0"))


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    acceptor = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Everybody,
        server_host_keys=[host_key],
        process_factory=end_at_once,
        encoding=None,
    )
    known_hosts, password = tmp_path / "known_hosts", tmp_path / "password"
    known_hosts.write_text(f"[127.0.0.1]:{acceptor.get_port()} {host_key.export_public_key().decode()}")
    password.touch(mode=0o600)
    password.write_text("any")
    settings = {"host": "127.0.0.1", "port": acceptor.get_port(), "user": "alice", "password_file": str(password)}
    profile = read_profiles(settings | {"known_hosts": str(known_hosts)}, ("multicri",)).named("default")
    login = profile.login_of("default")
    assert login
    connection = Connection(login, Dialer(profile, KnownHosts(), Keys()))
    yield connection
    await connection.close()
    acceptor.close()
    await acceptor.wait_closed()


@pytest.mark.parametrize("code", [0, 3])
async def test_a_command_that_wants_no_input_may_end_as_soon_as_it_likes(connection: Connection, code: int) -> None:
    done = await connection.run([str(code)], b"", 60)
    assert (done.exit_code, done.stdout) == (code, b"said")


async def test_a_command_that_fails_without_its_input_is_told_by_its_status(connection: Connection) -> None:
    assert (await connection.run(["3"], b"x" * 100, 60)).exit_code == 3


async def test_a_success_without_the_input_is_none(connection: Connection) -> None:
    with pytest.raises(Unavailable, match="did not take its input"):
        await connection.run(["0"], b"x" * 100, 60)
