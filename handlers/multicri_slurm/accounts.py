"""Who we are in which cluster: an account, and what proves it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user of a cluster, by its login host."""

    host: str
    port: int
    username: str

    def __str__(self) -> str:
        return f"{self.username}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """An account with its credentials, which never show in a repr.

    prerun is no part of it: the same login may run many kinds of jobs.
    """

    account: Account
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)

    def digest(self) -> str:
        """Tells logins apart, so that nobody rides on a connection that another password has opened."""
        text = json.dumps([asdict(self.account), self.password, self.private_key])
        return hashlib.sha256(text.encode()).hexdigest()

    def credentials(self) -> bytes:
        """To be sealed before it is kept anywhere."""
        return json.dumps({"password": self.password, "private_key": self.private_key}).encode()

    @classmethod
    def from_credentials(cls, account: Account, credentials: bytes) -> "Login":
        row = json.loads(credentials)
        return cls(account=account, password=row["password"], private_key=row["private_key"])
