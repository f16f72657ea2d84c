"""What a registry is asked, and what it answers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """reference: a tag or a digest. platform: ``os/architecture[/variant]``. timeout_s: for the whole of it.

    is_image: it has an OCI configuration; else it is any artifact. ca_certificates: PEM, besides the system's.
    """

    registry: str
    path: str
    reference: str
    platform: str
    timeout_s: float
    is_image: bool = True
    plain_http: bool = False
    ca_certificates: str = ""
    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """digest: what the reference names. manifest: that of the platform. content: the same for the same image anywhere.

    size_bytes: of all layers, compressed. The rest is the image's configuration.
    """

    digest: str
    manifest: str
    content: str
    size_bytes: int
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
