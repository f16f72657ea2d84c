"""Who we are in which cluster: an account, and what proves it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

DEFAULT_PROFILE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of a cluster, by its login host."""

    host: str
    port: int
    username: str

    def __str__(self) -> str:
        return f"{self.username}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Files of an admin's that prove an account; they are read whenever a connection is opened.

    setting: where the configuration names them. Paths are absolute, or names of credentials that systemd hands over;
    empty if there is none. Either key, password or token is set; a certificate goes with a key.
    uid, gid: the user's in the cluster, with a token.
    """

    setting: str
    key: str = ""
    certificate: str = ""
    password: str = ""
    token: str = ""
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """An account with what proves it, under a profile: a pod's own credentials, which never show in a repr, or files.

    prerun is no part of it: the same login may run many kinds of jobs.
    """

    account: Account
    profile: str = DEFAULT_PROFILE
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    proof: Proof | None = None

    def digest(self) -> str:
        """Tells logins apart, so that nobody rides on a connection that another password has opened."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def credentials(self) -> bytes:
        """The pod's own, to be sealed before they are kept anywhere."""
        return json.dumps({"password": self.password, "private_key": self.private_key}).encode()

    @classmethod
    def from_credentials(cls, account: Account, profile: str, credentials: bytes) -> "Login":
        row = json.loads(credentials)
        return cls(account=account, profile=profile, password=row["password"], private_key=row["private_key"])
