"""Tries a profile out whose cluster is reached by slurmrestd and a shared directory. No job is made for it."""

import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from multicri_proxy.api.check import Finding, Verdict
from multicri_proxy.api.errors import MulticriError
from multicri_slurm.accounts import Login
from multicri_slurm.profiles import Profile
from multicri_slurm.proofs import read_token
from multicri_slurm.rest_answers import fields_of, words_of
from multicri_slurm.rest_api import RestApi
from multicri_slurm.rest_cluster import shared_files

_SHORT_S = 3600.0
_LITTLE_ROOM_BYTES = 5 * 1024**3


@dataclass(frozen=True, slots=True)
class RestTrial:
    """One account of one profile."""

    profile: Profile
    login: Login

    async def run(self) -> AsyncIterator[Finding]:
        api = RestApi(self.login, self.profile.settings)
        begun = time.monotonic()
        try:
            version = await api.version()
            pinged = fields_of((await api.slurm("GET", "ping/")).body)
        except MulticriError as error:
            what = "token" if "token" in str(error) else "slurmrestd"
            yield self._finding(
                what, Verdict.BAD, str(error), "" if what == "token" else f"look at {self.profile.section}.rest_url"
            )
            yield await self._directory()
            return
        release = ((pinged.get("meta") or {}).get("slurm") or {}).get("release", "of no known release")
        took = f"in {time.monotonic() - begun:.1f} s"
        yield self._finding("slurmrestd", Verdict.GOOD, f"speaks {version}, {took}")
        yield self._finding("Slurm", Verdict.GOOD, f"slurm {release}")
        token = await self._token(api)
        if token.verdict is Verdict.BAD:  # nor is a ping that slurmctld does not take answered by it
            yield token
        elif any(one.get("pinged") == "UP" for one in pinged.get("pings") or []):
            yield self._finding("slurmctld", Verdict.GOOD, "up")
            yield token
        else:
            mend = "have the cluster's admin look at slurmctld; jobs that run go on"
            yield self._finding("slurmctld", Verdict.BAD, "down", mend)
        yield await self._directory()
        yield await self._accounting(api)

    async def _token(self, api: RestApi) -> Finding:
        """A ping is answered whatever the token is: only a question about jobs tells."""
        try:
            answer = await api.slurm("GET", "jobs/state/" if await api.version() != "v0.0.40" else "jobs/")
            left_s = await self._left_s()
        except MulticriError as error:
            return self._finding("token", Verdict.BAD, str(error))
        if answer.status != 200:
            return self._finding("slurmctld", Verdict.BAD, words_of(answer.body))
        if left_s is not None and left_s < _SHORT_S:
            mend = "have it written anew before: the file is read whenever slurmrestd is asked"
            return self._finding("token", Verdict.DOUBTFUL, f"is taken for {left_s:.0f} s more", mend)
        lasts = f", for {left_s / 3600:.0f} h more" if left_s is not None else ""
        return self._finding("token", Verdict.GOOD, f"is taken{lasts}")

    async def _left_s(self) -> float | None:
        """How long the token says that it is good; None if it does not say. Source: RFC 7519, ``exp``."""
        if self.login.proof is None:
            return None
        claims = (await read_token(self.login.proof)).split(".")[1]
        try:
            told = json.loads(base64.urlsafe_b64decode(f"{claims}==="))
            return float(told["exp"]) - time.time()
        except (ValueError, KeyError, TypeError):
            return None

    async def _directory(self) -> Finding:
        settings = self.profile.settings
        user = self.login.account.username
        mend = f"mount it on the node, and have uid and gid of {user} be those of the cluster"
        try:
            room = await shared_files(self.login, settings).room_bytes()
        except MulticriError as error:
            return self._finding("shared directory", Verdict.BAD, str(error), mend)
        meaning = f"can be written to, {room / 1024**3:.1f} GiB are free"
        if room < _LITTLE_ROOM_BYTES:
            mend = "images take hundreds of MiB each: make room"
            return self._finding("shared directory", Verdict.DOUBTFUL, meaning, mend)
        return self._finding("shared directory", Verdict.GOOD, meaning)

    async def _accounting(self, api: RestApi) -> Finding:
        try:
            answer = await api.accounting("clusters/")
        except MulticriError as error:
            return self._finding("accounting", Verdict.DOUBTFUL, str(error))
        if answer.status == 200:
            return self._finding("accounting", Verdict.GOOD, "slurmdbd's part answers")
        meaning = "slurmrestd serves none: how a job ended is known for MinJobAge only"
        return self._finding("accounting", Verdict.DOUBTFUL, meaning, "have the cluster's admin run slurmdbd")

    def _finding(self, what: str, verdict: Verdict, meaning: str, mend: str = "") -> Finding:
        of = f"{self.profile.name}: {self.login.account}"
        return Finding(of=of, what=what, verdict=verdict, meaning=meaning, mend=mend)
