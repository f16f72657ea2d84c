"""Logging in to the real cluster as an admin's profile says, and what is refused on the way."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from multicri_slurm.dialing import Dialer
from multicri_slurm.host_keys import KnownHosts
from multicri_slurm.keys import Keys
from multicri_slurm.profiles import read_profiles
from slurm_bench import Bench, everything
from testbed import Testbed

from multicri_proxy.api.adapter import OutputStream
from multicri_proxy.api.errors import PermissionDenied, Unavailable

pytestmark = pytest.mark.testbed


def address(bed: Testbed, host: str) -> str:
    found = bed.cluster.run("login", ["getent", "hosts", host], check=True).stdout.split()
    return found[0]


def private(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def alice(bed: Testbed, tmp_path: Path) -> dict[str, object]:
    """A profile that logs in as alice with her key."""
    key = private(tmp_path / "key", bed.cluster.user("alice").key.read_text())
    return {
        "host": bed.cluster.host,
        "user": "alice",
        "key_file": key,
        "known_hosts": str(bed.cluster.known_hosts),
    }


async def who(settings: dict[str, object], known_hosts: KnownHosts | None = None) -> str:
    """``user@host`` as the host that a profile leads to says it."""
    profile = read_profiles(settings, ("multicri",)).named("default")
    login = profile.login_of("default")
    assert login is not None
    connection = await Dialer(profile, known_hosts or KnownHosts(), Keys()).connect(login)
    try:
        async with asyncio.timeout(60):
            done = await connection.run('echo "$(id -un)@$(hostname)"', check=True)
    finally:
        connection.abort()
    return str(done.stdout).strip()


async def test_a_profile_logs_in_with_a_key_or_a_password_in_a_file(alice: dict[str, object], tmp_path: Path) -> None:
    assert await who(alice) == "alice@login"
    del alice["key_file"]
    password = private(tmp_path / "password", "alicepw\n")
    assert await who(alice | {"password_file": password}) == "alice@login"


async def test_a_key_may_be_a_credential_that_systemd_hands_over(
    alice: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert await who(alice | {"key_file": "key"}) == "alice@login"


async def test_a_file_that_proves_nothing_is_named_with_the_setting_and_the_mend(
    alice: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    key = Path(str(alice["key_file"]))
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "phrase", "-f", str(locked)], check=True)
    for path, reason in (
        (str(locked), r"slurm\.key_file: .*/locked: is a key with a passphrase: must be one without"),
        (private(tmp_path / "broken", "secretsecret"), r"slurm\.key_file: .*/broken: is not a private key"),
        (private(tmp_path / "empty", ""), r"slurm\.key_file: .*/empty is empty"),
        ("/not/there", r"slurm\.key_file: /not/there cannot be read: No such file"),
        ("name", r"slurm\.key_file: name is no absolute path, and systemd hands over no credentials"),
    ):
        with pytest.raises(PermissionDenied, match=reason) as caught:
            await who(alice | {"key_file": path})
        assert "secretsecret" not in str(caught.value)
    key.chmod(0o640)
    with pytest.raises(
        PermissionDenied, match=r"slurm\.key_file: .* is open to others \(owner 0, mode 0640\).*chmod 0600"
    ):
        await who(alice)


async def test_a_user_whom_the_cluster_refuses_is_told_by_the_settings_name(alice: dict[str, object]) -> None:
    with pytest.raises(PermissionDenied, match=r"bob@.*: the cluster refuses these credentials: check slurm\.user"):
        await who(alice | {"user": "bob"})


async def test_a_host_behind_one_or_two_others_is_reached_and_its_connections_end_together(
    bed: Testbed, alice: dict[str, object]
) -> None:
    cn1, cn2 = address(bed, "cn1"), address(bed, "cn2")
    behind = alice | {"host": cn1, "proxy_jump": [bed.cluster.host]}
    assert await who(behind) == "alice@cn1"
    assert await who(behind | {"host": cn2, "proxy_jump": [bed.cluster.host, f"{cn1}:22"]}) == "alice@cn2"

    def ssh_sessions() -> str:
        return bed.cluster.run("login", ["pgrep", "-c", "-f", "sshd.*alice"]).stdout.strip()

    async with asyncio.timeout(60):
        while ssh_sessions() != "0":
            await asyncio.sleep(0.1)


async def test_a_host_on_the_way_may_have_an_account_of_its_own(
    bed: Testbed, alice: dict[str, object], tmp_path: Path
) -> None:
    password = private(tmp_path / "bob", "bobpw")
    jump = {"host": bed.cluster.host, "user": "bob", "password_file": password}
    behind = alice | {"host": address(bed, "cn1"), "proxy_jump": [jump]}
    assert await who(behind) == "alice@cn1"
    Path(password).write_text("not-it")
    with pytest.raises(PermissionDenied, match=r"bob@.*: check who slurm\.proxy_jump\.0 says we are there"):
        await who(behind)


async def test_the_host_key_of_each_host_on_the_way_is_checked(
    bed: Testbed, alice: dict[str, object], tmp_path: Path
) -> None:
    cn1 = address(bed, "cn1")
    lines = bed.cluster.known_hosts.read_text().splitlines(keepends=True)
    behind = alice | {"host": cn1, "proxy_jump": [bed.cluster.host]}
    for missing, place in ((cn1, "host="), (bed.cluster.host, "proxy_jump: ")):
        file = tmp_path / "some"
        file.write_text("".join(line for line in lines if not line.startswith(f"{missing} ")))
        with pytest.raises(PermissionDenied, match=f"slurm.{place}{missing}: there is no host key for it"):
            await who(behind | {"known_hosts": str(file)})


async def test_a_host_key_in_the_settings_is_enough_and_is_the_only_one_for_its_host(
    bed: Testbed, alice: dict[str, object], tmp_path: Path
) -> None:
    _, kind, key = bed.cluster.known_hosts.read_text().splitlines()[0].split()
    nothing = {"known_hosts": str(tmp_path / "none")}
    assert await who(alice | nothing | {"host_key": f"{kind} {key} a comment"}) == "alice@login"
    other = bed.cluster.user("bob").key.with_suffix(".pub").read_text()
    with pytest.raises(PermissionDenied, match=r"its host key is not the one in slurm\.host_key"):
        await who(alice | {"host_key": other})


@pytest.fixture
def certified(bed: Testbed, tmp_path: Path) -> Iterator[Path]:
    """An authority whose certificates the login host's sshd takes, and which has signed its host key."""
    authority = tmp_path / "authority"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(authority)], check=True)
    public = authority.with_suffix(".pub").read_text()
    shell = ["sh", "-c", "cat > /etc/ssh/authority.pub"]
    bed.cluster.run("login", shell, stdin=public, check=True)
    (tmp_path / "host.pub").write_text(bed.cluster.known_hosts.read_text().splitlines()[0].split(maxsplit=1)[1])
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "host", "-h", "-n", bed.cluster.host]
    subprocess.run([*sign, str(tmp_path / "host.pub")], check=True)
    certificate = (tmp_path / "host-cert.pub").read_text()
    bed.cluster.run("login", ["sh", "-c", "cat > /etc/ssh/host-cert.pub"], stdin=certificate, check=True)
    before = bed.cluster.run("login", ["cat", "/etc/ssh/sshd_config"], check=True).stdout
    lines = "TrustedUserCAKeys /etc/ssh/authority.pub\nHostCertificate /etc/ssh/host-cert.pub\n"
    _configure(bed, before + lines)
    yield authority
    _configure(bed, before)


def _configure(bed: Testbed, text: str) -> None:
    bed.cluster.run("login", ["sh", "-c", "cat > /etc/ssh/sshd_config"], stdin=text, check=True)
    bed.cluster.stop_daemon("sshd")
    bed.cluster.start_daemon("sshd")


async def test_certificates_prove_the_user_to_the_host_and_the_host_to_us(
    bed: Testbed, alice: dict[str, object], certified: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    sign = ["ssh-keygen", "-q", "-s", str(certified), "-I", "alice", "-n", "alice", str(stranger) + ".pub"]
    subprocess.run(sign, check=True)
    known = tmp_path / "authorities"
    known.write_text(f"@cert-authority {bed.cluster.host} {certified.with_suffix('.pub').read_text()}")
    by_key_alone = alice | {"key_file": str(stranger), "known_hosts": str(known)}
    with pytest.raises(PermissionDenied, match="refuses these credentials"):
        await who(by_key_alone)
    assert await who(by_key_alone | {"certificate_file": f"{stranger}-cert.pub"}) == "alice@login"
    known.write_text(f"@cert-authority {bed.cluster.host} {stranger.with_suffix('.pub').read_text()}")
    with pytest.raises(PermissionDenied, match="its host key is not the one in"):
        await who(alice | {"known_hosts": str(known)})


async def test_a_key_is_learnt_at_first_sight_only_if_the_settings_say_so_and_a_change_is_refused(
    bed: Testbed, alice: dict[str, object], tmp_path: Path
) -> None:
    learnt = tmp_path / "learnt"
    unknown = alice | {"known_hosts": str(tmp_path / "none"), "learnt_hosts": str(learnt)}
    with pytest.raises(PermissionDenied, match=r"slurm\.known_hosts: .*/none is not there"):
        await who(unknown)
    tofu = unknown | {"host_key_policy": "tofu", "allowed_hosts": []}
    assert await who(tofu) == "alice@login"
    assert learnt.stat().st_mode & 0o777 == 0o600
    assert learnt.read_text() == bed.cluster.known_hosts.read_text().splitlines(keepends=True)[0]
    cn1 = address(bed, "cn1")
    assert await who(tofu | {"host": cn1, "proxy_jump": [bed.cluster.host]}) == "alice@cn1"
    assert len(learnt.read_text().splitlines()) == 2
    other = " ".join(bed.cluster.user("bob").key.with_suffix(".pub").read_text().split()[:2])
    learnt.write_text(f"{bed.cluster.host} {other}\n")
    with pytest.raises(PermissionDenied, match=r"its host key is not the one in .* or .*/learnt"):
        await who(tofu)
    assert learnt.read_text() == f"{bed.cluster.host} {other}\n"


async def test_a_large_file_of_hashed_hosts_is_read_once_and_again_when_it_has_changed(
    bed: Testbed, alice: dict[str, object], tmp_path: Path
) -> None:
    key = bed.cluster.known_hosts.read_text().split(maxsplit=1)[1].splitlines()[0]
    file = tmp_path / "hashed"
    file.write_text("".join(f"host{number} {key}\n" for number in range(5000)) + f"{bed.cluster.host} {key}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert bed.cluster.host not in file.read_text()
    known = KnownHosts()
    large = alice | {"known_hosts": str(file)}
    assert await who(large, known) == "alice@login"
    trusted = await known.match(str(file), bed.cluster.host, 22)
    assert await known.match(str(file), bed.cluster.host, 22) is trusted
    file.write_text(f"elsewhere {key}\n")
    with pytest.raises(PermissionDenied, match="there is no host key for it"):
        await who(large, known)


async def test_a_host_that_is_silent_is_unavailable(bed: Testbed, alice: dict[str, object]) -> None:
    nobody = str(bed.settings.cluster_network[99])
    key = bed.cluster.user("bob").key.with_suffix(".pub").read_text()
    with pytest.raises(Unavailable, match=r"no connection within 0\.5 s"):
        await who(alice | {"host": nobody, "host_key": key, "connect_timeout_s": 0.5})


async def test_a_password_opens_the_account_too(bench: Bench) -> None:
    async with bench.adapter() as slurm:
        spec = bench.spec(["/bin/echo", "in"], cluster={"CLUSTER_KEYVALUE": None, "CLUSTER_PASSWORD": "alicepw"})
        await slurm.create_container(spec)
        assert b"alicepw" not in b"".join(bench.store.rows.values())
        await slurm.start_container(spec.id)
        assert await everything(slurm, spec.id, OutputStream.STDOUT) == b"in\n"
        await slurm.remove_container(spec.id)
