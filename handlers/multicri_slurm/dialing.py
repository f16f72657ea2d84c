"""The way in to a cluster: over hosts on the way if need be, the host key of each of them checked.

Only what we are given is used: no agent, no default keys, no configuration files. A host whose key is not known is not
even connected to, unless the settings say so; nor is one on the way there.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from multicri_proxy.api.errors import PermissionDenied, Unavailable
from multicri_proxy.api.log import Log
from multicri_slurm.accounts import Login
from multicri_slurm.host_keys import HostKeys, KnownHosts, Trusted
from multicri_slurm.keys import Keys
from multicri_slurm.profiles import Profile, proof_of
from multicri_slurm.proofs import Evidence, evidence_of, read_evidence
from multicri_slurm.sshlib import asyncssh

KEEPALIVE_S, KEEPALIVES_MISSED = 15, 3

_log = Log("ssh")


class Dialer:
    """Opens connections as one profile wants them."""

    def __init__(self, profile: Profile, known_hosts: KnownHosts, keys: Keys) -> None:
        self.profile = profile
        self._host_keys = HostKeys(profile, known_hosts)
        self._keys = keys

    async def connect(self, login: Login) -> asyncssh.SSHClientConnection:
        """A connection; those to the hosts on the way end with it.

        Raises PermissionDenied if a host or a credential is refused, by the cluster or by the settings; Unavailable.
        """
        profile, host = self.profile, login.account.host
        if login.proof is None and not profile.settings.allows_host(host):
            place = f"{profile.section}.allowed_hosts"
            raise PermissionDenied(f"CLUSTER_HOST={host}: not among the hosts that {place} allows")
        evidence = await evidence_of(login, self._keys)
        tunnel: asyncssh.SSHClientConnection | None = None
        async with AsyncExitStack() as stack:
            for hop in [*await self._on_the_way(login, evidence), _Hop.to(login, evidence)]:
                connection = await self._dial(hop, tunnel)
                connection.set_tunnel(tunnel)
                stack.callback(connection.abort)
                tunnel = connection
            stack.pop_all()
        _log.info("connected", account=login.account, profile=profile.name)
        return connection

    async def _on_the_way(self, login: Login, evidence: Evidence) -> list[_Hop]:
        hops = []
        for number, jump in enumerate(self.profile.settings.proxy_jump):
            setting = f"{self.profile.section}.proxy_jump.{number}"
            own = await read_evidence(proof_of(jump, setting), self._keys) if jump.user is not None else evidence
            user = jump.user or login.account.username
            hops.append(_Hop(jump.host, jump.port, user, own, f"check who {setting} says we are there"))
        return hops

    async def _dial(self, hop: _Hop, tunnel: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
        limit_s = self.profile.settings.connect_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                trusted = await self._host_keys.of(hop.host, hop.port) or await self._learnt(hop, tunnel)
                return await asyncssh.connect(
                    hop.host,
                    hop.port,
                    tunnel=tunnel,
                    username=hop.username,
                    password=hop.evidence.password,
                    client_keys=_client_keys(hop.evidence),
                    known_hosts=trusted,
                    config=None,
                    agent_path=None,
                    gss_host=None,
                    x509_trusted_certs=None,
                    keepalive_interval=KEEPALIVE_S,
                    keepalive_count_max=KEEPALIVES_MISSED,
                )
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._host_keys.changed(hop.host, hop.port) from error
        except asyncssh.PermissionDenied as error:
            raise PermissionDenied(f"{hop}: the cluster refuses these credentials: {hop.mend}") from error
        except TimeoutError as error:
            raise Unavailable(f"{hop}: no connection within {limit_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            raise Unavailable(f"{hop}: {words(error)}") from error

    async def _learnt(self, hop: _Hop, tunnel: asyncssh.SSHClientConnection | None) -> Trusted:
        """The key that an unknown host shows, if that is to be trusted; kept before anything is sent to it."""
        if self._host_keys.learns:
            key = await asyncssh.get_server_host_key(hop.host, hop.port, tunnel=tunnel, config=None)
            if key is not None:
                await self._host_keys.learn(hop.host, hop.port, key.export_public_key().decode().strip())
        trusted = await self._host_keys.of(hop.host, hop.port)
        if trusted is None:
            raise self._host_keys.unknown(hop.host, hop.port)
        return trusted


@dataclass(frozen=True, slots=True)
class _Hop:
    """A host to log in to. mend: what to do if it refuses."""

    host: str
    port: int
    username: str
    evidence: Evidence
    mend: str

    @classmethod
    def to(cls, login: Login, evidence: Evidence) -> _Hop:
        account = login.account
        mend = "check CLUSTER_USERNAME and CLUSTER_PASSWORD or CLUSTER_KEYVALUE"
        if login.proof is not None:
            mend = f"check {login.proof.setting}.user and the files that prove it"
        return cls(account.host, account.port, account.username, evidence, mend)

    def __str__(self) -> str:
        return f"{self.username}@{self.host}:{self.port}"


def _client_keys(evidence: Evidence) -> list[Any] | None:
    """The key, and its certificate, if there is one. To check RSA here again would stop the event loop: see keys.py."""
    if evidence.private_key is None:
        return None
    key = asyncssh.import_private_key(evidence.private_key, unsafe_skip_rsa_key_validation=True)
    return [key if evidence.certificate is None else (key, asyncssh.import_certificate(evidence.certificate))]


def words(error: BaseException) -> str:
    """What an error of SSH says, in one line."""
    if isinstance(error, asyncssh.Error) and error.reason:
        return error.reason
    return str(error) or type(error).__name__
