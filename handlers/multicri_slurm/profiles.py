"""Cluster profiles: which one a pod gets, and who the pod is there. Pure.

The ``slurm:`` section is itself the profile ``default``. Each of its ``clusters:`` is one more, and has from the
section what it does not set itself, except for where the cluster is and who may log in there.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multicri_proxy.api.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from multicri_slurm.accounts import DEFAULT_PROFILE, Account, Login, Proof
from multicri_slurm.settings import Person, Settings, read_settings

if TYPE_CHECKING:  # the start of a daemon waits until its sections are checked, in a process that needs neither
    from multicri_proxy.api.adapter import Pod
    from multicri_slurm.variables import Variables

CLUSTER_ANNOTATION = "slurm.multicri.io/cluster"

_SECTION = "slurm"
_OWN = frozenset(
    {
        *("host", "port", "host_key", "proxy_jump", "handlers"),
        *("rest_url", "rest_ca_file", "rest_unencrypted", "shared_directory", "shared_directory_in_cluster"),
        *("user", "users", "key_file", "certificate_file", "password_file", "token_file", "uid", "gid"),
    }
)
"""What a cluster never has from the section above it."""

_LOGIN_VARIABLES = ("CLUSTER_USERNAME", "CLUSTER_PASSWORD", "CLUSTER_KEYVALUE", "CLUSTER_HOST", "CLUSTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A cluster as an admin describes it."""

    name: str
    settings: Settings

    @property
    def section(self) -> str:
        """Where its settings are written."""
        return _SECTION if self.name == DEFAULT_PROFILE else f"{_SECTION}.clusters.{self.name}"

    def login_of(self, namespace: str) -> Login | None:
        """Whom the pods of a namespace are by these settings, if anybody."""
        if (user := self.settings.users.get(namespace)) is not None:
            return self._login(user, f"{self.section}.users.{namespace}")
        return self._login(self.settings, self.section) if self.settings.user is not None else None

    def login_as(self, account: Account) -> Login:
        """What proves an account that a container was created with.

        Raises FailedPrecondition if the settings are no longer about this account.
        """
        people: dict[str, Person] = {f"{self.section}.users.{name}": user for name, user in self.settings.users.items()}
        for setting, person in ({self.section: self.settings} | people).items():
            if person.user == account.username and (login := self._login(person, setting)).account == account:
                return login
        raise FailedPrecondition(
            f"{self.section} is no longer about {account}, where this container was created: "
            "put host, port and user back until its pod is gone"
        )

    def login_for(self, variables: "Variables", namespace: str) -> Login:
        """Who a pod is: what its CLUSTER_* say, else what the settings say.

        Raises InvalidArgument or PermissionDenied naming the variable or the setting that is in the way.
        """
        given = [name for name in _LOGIN_VARIABLES if getattr(variables, name) is not None]
        if given and self.settings.pod_credentials == "forbid":
            raise PermissionDenied(f"{given[0]}: {self.section}.pod_credentials forbids a pod its own: leave it out")
        if given and self.settings.rest_url is not None:
            raise PermissionDenied(f"{given[0]}: is for SSH, and {self.section} is reached by REST: leave it out")
        if given or not (self.settings.user or self.settings.users):
            return self._own_login(variables)
        login = self.login_of(namespace)
        if login is None:
            raise PermissionDenied(f"{self.section}.users has nobody for the namespace {namespace!r}")
        if variables.CLUSTER_CONFIG is not None and not self.settings.pod_prerun:
            raise PermissionDenied(
                f"CLUSTER_CONFIG: {login.account} is not the pod's own account: "
                f"leave it out, or have an admin set {self.section}.pod_prerun"
            )
        return login

    def _own_login(self, variables: "Variables") -> Login:
        host = variables.CLUSTER_HOST or self.settings.host
        missing = [
            f"{name}: must be set in the container's env"
            for name, value in (("CLUSTER_USERNAME", variables.CLUSTER_USERNAME), ("CLUSTER_HOST", host))
            if value is None
        ]
        if (variables.CLUSTER_PASSWORD is None) == (variables.CLUSTER_KEYVALUE is None):
            missing.append("exactly one of CLUSTER_PASSWORD and CLUSTER_KEYVALUE must be set")
        if missing or host is None or variables.CLUSTER_USERNAME is None:
            raise InvalidArgument("; ".join(missing))
        port = variables.CLUSTER_PORT or (self.settings.port if variables.CLUSTER_HOST is None else 22)
        return Login(
            account=Account(host=host, port=port, username=variables.CLUSTER_USERNAME),
            profile=self.name,
            password=variables.CLUSTER_PASSWORD,
            private_key=variables.CLUSTER_KEYVALUE,
        )

    def _login(self, person: Person, setting: str) -> Login:
        if person.user is None or (place := self.settings.place) is None:
            raise AssertionError(f"{setting}: settings that were not checked")
        return Login(
            account=Account(host=place[0], port=place[1], username=person.user),
            profile=self.name,
            proof=proof_of(person, setting),
        )


def proof_of(person: Person, setting: str) -> Proof:
    return Proof(
        setting=setting,
        key=person.key_file,
        certificate=person.certificate_file,
        password=person.password_file,
        token=person.token_file,
        uid=person.uid,
        gid=person.gid,
    )


class Profiles:
    """All profiles, by name."""

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self._profiles = profiles
        self._by_handler = {handler: one for one in profiles.values() for handler in one.settings.handlers}

    def all(self) -> Collection[Profile]:
        return self._profiles.values()

    def named(self, name: str) -> Profile:
        """The profile that a container was created with.

        Raises FailedPrecondition if it is not there any more.
        """
        if name not in self._profiles:
            raise FailedPrecondition(
                f"the profile {name!r} is gone from {_SECTION}.clusters: put it back until its pods are gone"
            )
        return self._profiles[name]

    def of_pod(self, pod: "Pod") -> Profile:
        """By annotation, else by handler, else the default one.

        Raises InvalidArgument for an annotation that names none.
        """
        name = pod.annotations.get(CLUSTER_ANNOTATION)
        if name is None:
            return self._by_handler.get(pod.runtime_handler, self._profiles[DEFAULT_PROFILE])
        if name not in self._profiles:
            known = ", ".join(sorted(self._profiles))
            raise InvalidArgument(f"annotation {CLUSTER_ANNOTATION}={name[:80]!r}: must be one of {known}")
        return self._profiles[name]


def read_profiles(section: Mapping[str, object], handlers: Collection[str]) -> Profiles:
    """Every profile of the ``slurm:`` section. handlers: those whose pods come here at all.

    Raises InvalidArgument naming each setting that is wrong and why.
    """
    above = {name: value for name, value in section.items() if name != "clusters"}
    profiles = {DEFAULT_PROFILE: Profile(name=DEFAULT_PROFILE, settings=read_settings(above))}
    inherited = {name: value for name, value in above.items() if name not in _OWN}
    for name, own in _clusters(section.get("clusters", {})).items():
        settings = read_settings({**inherited, **own}, f"{_SECTION}.clusters.{name}")
        if settings.place is None:
            raise InvalidArgument(f"{_SECTION}.clusters.{name}.host: must be set, or rest_url")
        profiles[name] = Profile(name=name, settings=settings)
    _check_handlers(profiles.values(), handlers)
    return Profiles(profiles)


def _clusters(value: object) -> dict[str, Mapping[str, object]]:
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{_SECTION}.clusters: must be settings by the cluster's name")
    clusters: dict[str, Mapping[str, object]] = {}
    for name, settings in value.items():
        if not isinstance(name, str) or not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 63:
            raise InvalidArgument(f"{_SECTION}.clusters: {str(name)[:80]!r} must be a name of A-Z a-z 0-9 -")
        if name == DEFAULT_PROFILE:
            raise InvalidArgument(f"{_SECTION}.clusters.{name}: is the section {_SECTION} itself; take another name")
        if not isinstance(settings, Mapping):
            raise InvalidArgument(f"{_SECTION}.clusters.{name}: must be settings, one line each")
        clusters[name] = settings
    return clusters


def _check_handlers(profiles: Collection[Profile], known: Collection[str]) -> None:
    taken: dict[str, Profile] = {}
    for profile in profiles:
        for handler in profile.settings.handlers:
            place = f"{profile.section}.handlers: {handler!r}"
            if handler not in known:
                raise InvalidArgument(f"{place} is not among {', '.join(known)}: add it to the setting handler")
            if handler in taken:
                raise InvalidArgument(f"{place} is a handler of {taken[handler].section} too; take it out of one")
            taken[handler] = profile
