"""What a registry is asked, and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """reference: a tag or a digest. platform: ``os/architecture[/variant]``. timeout_s: for the whole of it.

    is_image: it has an OCI configuration; else it is any artifact. ca_certificates: PEM, besides the system's.
    known: digests of which nothing needs to be told any more: to ask for those alone costs nothing of what a registry
        allows an address.
    """

    registry: str
    path: str
    reference: str
    platform: str
    timeout_s: float
    is_image: bool = True
    known: tuple[str, ...] = ()
    plain_http: bool = False
    ca_certificates: str = ""
    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """digest: what the reference names. content: the same for the same image anywhere.

    size_bytes: of all layers, compressed. The rest is the image's configuration.
    """

    digest: str
    content: str
    size_bytes: int
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Known:
    """The reference still names what is known of it. digest: one of the question's."""

    digest: str
