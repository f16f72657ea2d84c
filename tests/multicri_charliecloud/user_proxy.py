"""A daemon that is not root's."""

import pwd
from dataclasses import dataclass

from kubelet import Proxy


@dataclass
class UserProxy(Proxy):
    """A daemon of an ordinary user's."""

    @property
    def argv(self) -> list[str]:
        user = pwd.getpwnam("nobody")
        become = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        return ["setpriv", *become, "--", *super().argv]
