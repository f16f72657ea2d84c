"""The cluster: a remote HPC of three hosts, login, cn1 and cn2, with Slurm, sshd, a shared home and two users."""

import ipaddress
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from testbed.authority import Authority
from testbed.host import Host, HostDaemon, HostName
from testbed.programs import TestbedError, run, wait_until
from testbed.root import ClusterRoot, RootUser
from testbed.settings import Settings

UserName = Literal["root", "alice", "bob"]
DaemonName = Literal["munged", "sshd", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "slurmrestd"]

LOGIN: HostName = "login"
COMPUTE: tuple[HostName, ...] = ("cn1", "cn2")
ADDRESS_OF: dict[HostName, int] = {"login": 10, "cn1": 11, "cn2": 12}
SSH_PORT = 22
REST_PORT = 6820
HOST_KEY = Path("etc/ssh/ssh_host_ed25519_key")
JWT_KEY = Path("etc/slurm/jwt_hs256.key")
USERS = (
    RootUser(name="alice", uid=2001, password="alicepw", apptainer=True),
    RootUser(name="bob", uid=2002, password="bobpw", apptainer=False),
)
DATABASE_PASSWORD = "slurmpw"

DAEMONS: dict[DaemonName, HostDaemon] = {
    "munged": HostDaemon(
        name="munged",
        argv=("setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged", "--num-threads=4"),
        pid_file=Path("run/munge/munged.pid"),
        log=Path("var/log/munge/munged.log"),
    ),
    "sshd": HostDaemon(
        name="sshd",
        argv=("/usr/sbin/sshd", "-E", "/var/log/sshd.log"),
        pid_file=Path("run/sshd.pid"),
        log=Path("var/log/sshd.log"),
    ),
    "slurmctld": HostDaemon(
        name="slurmctld",
        argv=("slurmctld", "-i"),
        pid_file=Path("run/slurmctld.pid"),
        log=Path("var/log/slurm/slurmctld.log"),
    ),
    "slurmd": HostDaemon(
        name="slurmd",
        argv=("slurmd",),
        pid_file=Path("run/slurmd.pid"),
        log=Path("var/log/slurm/slurmd.log"),
    ),
    "slurmdbd": HostDaemon(
        name="slurmdbd",
        argv=("slurmdbd",),
        pid_file=Path("run/slurmdbd.pid"),
        log=Path("var/log/slurm/slurmdbd.log"),
    ),
    "mariadbd": HostDaemon(
        name="mariadbd",
        argv=(
            "sh",
            "-c",
            "setsid mariadbd --no-defaults --user=mysql --datadir=/var/lib/mysql --socket=/run/mysqld/mysqld.sock"
            " --bind-address=127.0.0.1 --skip-name-resolve --pid-file=/run/mysqld/mysqld.pid"
            " --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0"
            " </dev/null >/var/log/mariadb.log 2>&1 &",
        ),
        pid_file=Path("run/mysqld/mysqld.pid"),
        log=Path("var/log/mariadb.log"),
    ),
    # It refuses to run as SlurmUser, and with its accounting part where Slurm has none.
    # SLURM_JWT=daemon: it has no token of its own, and takes its callers'.
    "slurmrestd": HostDaemon(
        name="slurmrestd",
        argv=(
            "sh",
            "-c",
            "install -d -o nobody /run/slurmrestd && SLURM_JWT=daemon setsid setpriv --reuid nobody --regid nogroup"
            " --clear-groups slurmrestd -a rest_auth/jwt"
            " -s slurmctld$(! grep -q slurmdbd /etc/slurm/slurm.conf || echo ,slurmdbd)"
            f" 0.0.0.0:{REST_PORT} unix:/run/slurmrestd/socket"
            " </dev/null >/var/log/slurmrestd.log 2>&1 & echo $! >/run/slurmrestd.pid",
        ),
        pid_file=Path("run/slurmrestd.pid"),
        log=Path("var/log/slurmrestd.log"),
    ),
}

SLURM_CONF = """\
ClusterName=hpc
SlurmctldHost=login({login})
SlurmUser=root
AuthType=auth/munge
{alternative_auth}
CredType=cred/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType={proctrack}
TaskPlugin={task_plugin}
JobAcctGatherType=jobacct_gather/{gatherer}
JobAcctGatherFrequency=task=5
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=200
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
GresTypes=gpu
{accounting}
JobCompType=jobcomp/filetxt
JobCompLoc=/var/log/slurm/jobcomp.txt
MinJobAge={min_job_age_s}
CompleteWait=0
KillWait=3
SlurmctldTimeout=30
SlurmdTimeout=30
UnkillableStepTimeout=60
NodeName=DEFAULT CPUs=4 Boards=1 SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
NodeName=cn1 NodeAddr={cn1}
NodeName=cn2 NodeAddr={cn2} Gres=gpu:a100:2
PartitionName=batch Nodes=cn1,cn2 Default=YES MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP
# its jobs end others, which are not requeued if they forbid it
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=cn1,cn2 PriorityTier=10 MaxTime=01:00:00 DefaultTime=00:10:00 State=UP
PartitionName=gpu Nodes=cn2 MaxTime=04:00:00 DefaultTime=00:30:00 State=UP
"""
WITH_TOKENS = "AuthAltTypes=auth/jwt\nAuthAltParameters=jwt_key=/etc/slurm/jwt_hs256.key"
WITH_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=login
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment,job_env,job_script"""
WITHOUT_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
GRES_CONF = "NodeName=cn2 Name=gpu Type=a100 File=/dev/fakegpu[0-1]\n"
# Without a cgroup.conf slurmd dies after daemonizing, with exit code 0. 22.05 cannot do without a plug-in.
NO_CGROUPS = "CgroupPlugin=disabled\n"
NO_CGROUPS_22_05 = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
CGROUP_V1 = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
ConstrainCores=no
ConstrainDevices=no
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
{alternative_auth}
DbdHost=login
SlurmUser=root
LogFile=/var/log/slurm/slurmdbd.log
PidFile=/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
CommitDelay=1
"""
MAKE_DATABASE = (
    "mariadb-install-db",
    "--no-defaults",
    "--force",
    "--datadir=/var/lib/mysql",
    "--user=mysql",
    "--auth-root-authentication-method=normal",
    "--skip-test-db",
)
DATABASE_SQL = """\
create database slurm_acct;
create user slurm@127.0.0.1 identified by '{password}';
grant all on slurm_acct.* to slurm@127.0.0.1;
"""
SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM no
PasswordAuthentication yes
PubkeyAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin no
UseDNS no
PrintMotd no
MaxSessions 100
MaxStartups 100:30:200
AllowTcpForwarding yes
Subsystem sftp internal-sftp
"""
# Tests of refused logins must not shut out the tests after them. bookworm's sshd does not know the word.
NO_PENALTIES = "PerSourcePenalties no\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterUser:
    """A user of the cluster. alice finds Apptainer and Charliecloud there, bob finds only Charliecloud."""

    name: str
    uid: int
    password: str
    key: Path
    """Private key, mode 0600, without a passphrase."""
    home: Path
    """The home directory as this machine sees it; in the cluster it is /home/NAME."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    settings: Settings
    authority: Authority

    @property
    def host(self) -> str:
        """The login host's address."""
        return str(self._address(LOGIN))

    @property
    def port(self) -> int:
        return SSH_PORT

    @property
    def serves_rest(self) -> bool:
        """bookworm's slurmrestd speaks older versions only, and is left out."""
        return self.settings.release != "bookworm"

    @property
    def rest_url(self) -> str:
        return f"http://{self.host}:{REST_PORT}"

    def token(self, user: str, *, lifespan_s: int = 3600) -> str:
        """What slurmrestd knows a user by."""
        asked = ["scontrol", "token", f"username={user}", f"lifespan={lifespan_s}"]
        return self.run(LOGIN, asked, check=True).stdout.strip().removeprefix("SLURM_JWT=")

    @property
    def known_hosts(self) -> Path:
        """An OpenSSH known_hosts file with the key of all three hosts."""
        return self._directory / "known_hosts"

    def user(self, name: str) -> ClusterUser:
        """Raises KeyError for a name other than alice and bob."""
        user = {user.name: user for user in USERS}[name]
        return ClusterUser(
            name=user.name,
            uid=user.uid,
            password=user.password,
            key=self._directory / f"id_{user.name}",
            home=self._directory / "home" / user.name,
        )

    def run(
        self,
        host: HostName,
        argv: Sequence[str],
        *,
        user: UserName = "root",
        stdin: str | None = None,
        timeout_s: float = 60,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside a host, without ssh.

        Raises TestbedError if the host is down, on a timeout and, with check, on an exit code other than 0.
        """
        return self._host(host).run(argv, user=user, stdin=stdin, timeout_s=timeout_s, check=check)

    def argv_inside(self, host: HostName, argv: Sequence[str], *, user: UserName = "root") -> list[str]:
        """What to execute on this machine in order to run argv inside a host."""
        return self._host(host).argv_inside(argv, user=user)

    def start_daemon(self, name: DaemonName, host: HostName = LOGIN) -> None:
        """Start a daemon and return when it serves; slurmd serves when its node takes jobs. No-op while it runs."""
        self._host(host).start_daemon(DAEMONS[name])
        self._wait_daemon(name, host)

    def stop_daemon(
        self, name: DaemonName, host: HostName = LOGIN, *, signal_number: signal.Signals = signal.SIGTERM
    ) -> None:
        """Signal a daemon and return when it is gone. Running jobs and sessions go on without it."""
        self._host(host).stop_daemon(DAEMONS[name], signal_number=signal_number)

    def cut_link(self, host: HostName) -> None:
        """Cut a host off the network; it goes on by itself."""
        self._host(host).cut_link()

    def mend_link(self, host: HostName) -> None:
        self._host(host).mend_link()

    def log(self, name: DaemonName, host: HostName = LOGIN) -> Path:
        """A daemon's log, as this machine sees it."""
        return self._host(host).path(DAEMONS[name].log)

    @property
    def root(self) -> ClusterRoot:
        return ClusterRoot(
            release=self.settings.release,
            cache=self.settings.cache,
            authority=self.authority,
            users=USERS,
            accounting=self.settings.accounting,
        )

    def prepare(self) -> None:
        """Write every host's configuration, the users' homes and keys."""
        home = self._directory / "home"
        home.mkdir(parents=True, exist_ok=True)
        for user in map(self.user, (user.name for user in USERS)):
            _make_key(user.key, comment=f"{user.name}@testbed")
            _make_home(user, skeleton=self.root.path / "etc/skel")
        jwt_key = secrets.token_bytes(32)
        host_key = self._directory / "ssh_host_ed25519_key"
        _make_key(host_key, comment="testbed")
        public = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
        self.known_hosts.write_text("".join(f"{self._address(host)} {public}\n" for host in ADDRESS_OF))
        munge_key = secrets.token_bytes(128)
        for host in (LOGIN, *COMPUTE):
            self._configure(self._host(host), host_key, munge_key, jwt_key)

    def boot(self) -> None:
        """Boot the hosts and start their daemons; return when sshd answers and both nodes take jobs."""
        hosts = [self._host(name) for name in (LOGIN, *COMPUTE)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.boot, hosts))
            list(pool.map(self._start_on_boot, hosts))
        self.wait_ready()

    def power_off(self) -> None:
        for name in (LOGIN, *COMPUTE):
            self._host(name).power_off()

    def wait_ready(self) -> None:
        """Wait until every daemon of every host serves."""
        for name in (LOGIN, *COMPUTE):
            for daemon in self.daemons_of(name):
                self._wait_daemon(daemon, name)

    def daemons_of(self, host: HostName) -> tuple[DaemonName, ...]:
        if host != LOGIN:
            return ("munged", "slurmd", "sshd")
        accounting: tuple[DaemonName, ...] = ("mariadbd", "slurmdbd") if self.settings.accounting else ()
        rest: tuple[DaemonName, ...] = ("slurmrestd",) if self.serves_rest else ()
        return ("munged", *accounting, "slurmctld", *rest, "sshd")

    def alive(self) -> dict[str, bool]:
        """Whether each host has booted and each of its daemons runs, by "host" and "host/daemon"."""
        alive: dict[str, bool] = {}
        for name in (LOGIN, *COMPUTE):
            host = self._host(name)
            alive[name] = host.init_pid is not None
            for daemon in self.daemons_of(name):
                alive[f"{name}/{daemon}"] = alive[name] and host.daemon_pid(DAEMONS[daemon]) is not None
        return alive

    def _start_on_boot(self, host: Host) -> None:
        for daemon in self.daemons_of(host.name):
            if daemon == "mariadbd":
                self._make_database(host)
            host.start_daemon(DAEMONS[daemon])
            if daemon == "mariadbd":
                self._wait_daemon(daemon, LOGIN)
                sql = DATABASE_SQL.format(password=DATABASE_PASSWORD)
                host.run(["mariadb", "--no-defaults", "-S", "/run/mysqld/mysqld.sock"], stdin=sql, check=True)
            elif daemon == "slurmdbd":
                self._wait_daemon(daemon, LOGIN)
                self._make_accounts(host)

    def _make_database(self, host: Host) -> None:
        host.run(["install", "-d", "-o", "mysql", "-g", "mysql", "/run/mysqld"], check=True)
        host.run(MAKE_DATABASE, check=True)

    def _make_accounts(self, host: Host) -> None:
        host.run(["sacctmgr", "-i", "add", "cluster", "hpc"])
        host.run(["sacctmgr", "-i", "add", "account", "lab", "description=lab", "organization=lab"], check=True)
        for user in USERS:
            host.run(["sacctmgr", "-i", "add", "user", user.name, "account=lab"], check=True)

    def _wait_daemon(self, name: DaemonName, host: HostName) -> None:
        probes: dict[DaemonName, Sequence[str]] = {
            "munged": ["munge", "-n"],
            "mariadbd": ["mariadb-admin", "--no-defaults", "-S", "/run/mysqld/mysqld.sock", "ping"],
            "slurmdbd": ["sacctmgr", "-n", "list", "cluster"],
            "slurmctld": ["scontrol", "ping"],
        }

        def serves() -> bool:
            if name == "sshd":
                return self._ssh_banner(host)
            if name == "slurmrestd":
                return self._rest_answers()
            if name == "slurmd":
                state = self.run(LOGIN, ["sinfo", "-h", "-N", "-n", host, "-o", "%T"]).stdout.split()
                return bool(state) and state[0] in ("idle", "mixed", "allocated", "completing")
            done = self.run(host, probes[name])
            return done.returncode == 0 and (name != "slurmctld" or "UP" in done.stdout)

        wait_until(f"{name} on {host} serves", serves, timeout_s=60, log=self.log(name, host))

    def _rest_answers(self) -> bool:
        try:
            with socket.create_connection((self.host, REST_PORT), timeout=2):
                return True
        except OSError:
            return False

    def _ssh_banner(self, host: HostName) -> bool:
        try:
            with socket.create_connection((str(self._address(host)), SSH_PORT), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _host(self, name: HostName) -> Host:
        return Host(settings=self.settings, name=name, address=self._address(name), root=self.root.path)

    def _address(self, name: HostName) -> ipaddress.IPv4Address:
        return self.settings.cluster_network[ADDRESS_OF[name]]

    def _configure(self, host: Host, host_key: Path, munge_key: bytes, jwt_key: bytes) -> None:
        settings = self.settings
        addresses = {str(name): self._address(name) for name in ADDRESS_OF}
        names = "".join(f"{address} {name}\n" for name, address in addresses.items())
        alternative_auth = WITH_TOKENS if self.serves_rest else ""
        slurm_conf = SLURM_CONF.format(
            **addresses,
            proctrack="proctrack/cgroup" if settings.memory_limits else "proctrack/linuxproc",
            task_plugin="task/cgroup" if settings.memory_limits else "task/none",
            accounting=WITH_ACCOUNTING if settings.accounting else WITHOUT_ACCOUNTING,
            gatherer="linux" if settings.measured_jobs else "none",
            min_job_age_s=settings.min_job_age_s,
            alternative_auth=alternative_auth,
        )
        no_cgroups, no_penalties = NO_CGROUPS, NO_PENALTIES
        if settings.release == "bookworm":
            no_cgroups, no_penalties = NO_CGROUPS_22_05, ""
        files = {
            "etc/hostname": f"{host.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n{names}{settings.gateway} {settings.registry_name}\n",
            "etc/slurm/slurm.conf": slurm_conf,
            "etc/slurm/gres.conf": GRES_CONF,
            "etc/slurm/cgroup.conf": CGROUP_V1 if settings.memory_limits else no_cgroups,
            "etc/ssh/sshd_config": SSHD_CONFIG + no_penalties,
        }
        for path, text in files.items():
            (host.upper / path).parent.mkdir(parents=True, exist_ok=True)
            (host.upper / path).write_text(text)
        for path in ("var/log/slurm", "var/spool/slurmctld", "var/spool/slurmd"):
            (host.upper / path).mkdir(parents=True, exist_ok=True)
        _write_private(host.upper / HOST_KEY, host_key.read_bytes())
        munge_directory = host.upper / "etc/munge"
        _write_private(munge_directory / "munge.key", munge_key)
        uid, gid = _ids(host.root, "munge")
        munge_directory.chmod(0o700)
        for owned in (munge_directory, munge_directory / "munge.key"):
            os.chown(owned, uid, gid)
        if host.name == LOGIN:
            _write_private(host.upper / JWT_KEY, jwt_key)
        if settings.accounting and host.name == LOGIN:
            conf = SLURMDBD_CONF.format(password=DATABASE_PASSWORD, alternative_auth=alternative_auth)
            _write_private(host.upper / "etc/slurm/slurmdbd.conf", conf.encode())

    @property
    def _directory(self) -> Path:
        return self.settings.run / "cluster"


def _make_key(path: Path, *, comment: str) -> None:
    if not path.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], timeout_s=60)


def _make_home(user: ClusterUser, *, skeleton: Path) -> None:
    shutil.copytree(skeleton, user.home, dirs_exist_ok=True)
    ssh = user.home / ".ssh"
    ssh.mkdir(exist_ok=True)
    shutil.copy(user.key.with_suffix(".pub"), ssh / "authorized_keys")
    for directory, mode in ((user.home, 0o755), (ssh, 0o700)):
        directory.chmod(mode)
    for path in (user.home, *user.home.rglob("*")):
        os.chown(path, user.uid, user.uid)


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)


def _ids(root: Path, user: str) -> tuple[int, int]:
    """The uid and gid of a user of a root file system. Raises TestbedError if it has no such user."""
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == user:
            return int(uid), int(gid)
    raise TestbedError(f"{root} has no user {user}")
