"""Asks a registry what a reference means: a program of its own, for what a pod's author names is not trusted.

It reads a `Question` and writes one line of JSON, a `Finding` or ``{"error": kind, "message": ...}``. It blocks, and is
killed if it takes too long. The standard library alone: it is started for every pull.

Source: OCI distribution specification; OCI image specification; Docker registry token authentication.
"""

import base64
import hashlib
import json
import re
import resource
import signal
import ssl
import sys
from collections.abc import Mapping
from dataclasses import asdict
from email.message import Message
from typing import IO, Any, Literal, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from multicri_images.question import Finding, Known, Question

LARGEST_MANIFEST_BYTES = 4 * 1024 * 1024
LARGEST_TOKEN_BYTES = 64 * 1024
LARGEST_FACTS_BYTES = 256 * 1024
LARGEST_MEMORY_BYTES = 1 << 30
MOST_REDIRECTS = 5

INDEXES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
MANIFESTS = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
_MANIFEST = ", ".join(sorted(INDEXES | MANIFESTS))
_DOCKER_HUB = "registry-1.docker.io"
_DIGEST = re.compile(r"(sha256|sha512):[0-9a-f]{64,128}", re.ASCII)
_PARAMETER = re.compile(r'([a-z_]+)="([^"\\]*)"', re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)

Kind = Literal["unreachable", "missing", "denied", "unusable"]


class RegistryError(Exception):
    """kind: whether asking again, asking as somebody else, or neither helps."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def find(question: Question) -> Finding | Known:
    """Raises RegistryError."""
    registry = _Registry(question)
    if question.known and (named := registry.digest(question.reference)) in question.known:
        return Known(digest=named)
    body, media_type = registry.manifest(question.reference)
    digest = _digest_of(body, question.reference)
    document = _json(body, "the manifest")
    if _kind_of(document, media_type) in INDEXES:
        manifest = _of_platform(document, question.platform)
        body, media_type = registry.manifest(manifest)
        _digest_of(body, manifest)
        document = _json(body, "the manifest")
    if _kind_of(document, media_type) not in MANIFESTS:
        raise RegistryError("unusable", f"it is no image but {_kind_of(document, media_type)[:80]!r}")
    size_bytes = _size_of(document)
    if not question.is_image:
        return Finding(digest=digest, content=digest, size_bytes=size_bytes)
    config = document.get("config")
    config_digest = config.get("digest") if isinstance(config, dict) else None
    if not isinstance(config_digest, str) or not _DIGEST.fullmatch(config_digest):
        raise RegistryError("unusable", "its manifest names no configuration")
    body = registry.blob(config_digest)
    _digest_of(body, config_digest)
    facts = _facts(_json(body, "the configuration"), question.platform)
    return Finding(digest=digest, content=config_digest, size_bytes=size_bytes, **facts)


class _Redirects(HTTPRedirectHandler):
    """Credentials are not sent on: they are in unredirected headers. TLS is not left."""

    max_redirections = MOST_REDIRECTS

    def __init__(self, *, plain_http: bool) -> None:
        self._schemes = {"https", "http"} if plain_http else {"https"}

    def redirect_request(  # noqa: PLR0917  (urllib's)
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in self._schemes:
            raise RegistryError("unusable", "the registry sends us away from TLS")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


class _Registry:
    """One registry, as whom the question says."""

    def __init__(self, question: Question) -> None:
        self._question = question
        host = _DOCKER_HUB if question.registry == "docker.io" else question.registry
        self._base = f"{'http' if question.plain_http else 'https'}://{host}/v2/{question.path}"
        self._opener = OpenerDirector()
        context = ssl.create_default_context()
        if question.ca_certificates:
            context.load_verify_locations(cadata=question.ca_certificates)
        for handler in (
            *(ProxyHandler(), HTTPHandler(), HTTPSHandler(context=context), HTTPDefaultErrorHandler()),
            *(_Redirects(plain_http=question.plain_http), HTTPErrorProcessor()),
        ):
            self._opener.add_handler(handler)
        self._authorization = f"Bearer {question.registry_token}" if question.registry_token else ""

    def digest(self, reference: str) -> str:
        """What the registry says is the digest of a manifest; empty if it does not say."""
        _, headers = self._ask(self._manifest_url(reference), _MANIFEST, "HEAD")
        return str(headers.get("Docker-Content-Digest", ""))

    def manifest(self, reference: str) -> tuple[bytes, str]:
        body, headers = self._ask(self._manifest_url(reference), _MANIFEST)
        return body, headers.get_content_type()

    def blob(self, digest: str) -> bytes:
        return self._ask(f"{self._base}/blobs/{digest}", "*/*")[0]

    def _manifest_url(self, reference: str) -> str:
        return f"{self._base}/manifests/{reference}"

    def _ask(self, url: str, accept: str, method: str = "GET") -> tuple[bytes, Message]:
        try:
            return self._once(url, accept, method)
        except HTTPError as error:
            if error.code != 401 or self._authorization:
                self._refuse(error)
            challenges = error.headers.get_all("WWW-Authenticate", [])
        self._authorization = self._answer(challenges)
        try:
            return self._once(url, accept, method)
        except HTTPError as error:
            self._refuse(error)

    def _once(self, url: str, accept: str, method: str) -> tuple[bytes, Message]:
        headers = {"Accept": accept, "User-Agent": "multicri-proxy"}
        request = Request(url, headers=headers, method=method)  # noqa: S310  (http or https, by the admin's word)
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        return self._read(request, LARGEST_MANIFEST_BYTES)

    def _read(self, request: Request, limit: int) -> tuple[bytes, Message]:
        with self._opener.open(request, timeout=self._question.timeout_s) as response:
            body: bytes = response.read(limit + 1)
            if len(body) > limit:
                raise RegistryError("unusable", f"the registry's answer is larger than {limit} bytes")
            return body, response.headers

    def _refuse(self, error: HTTPError) -> NoReturn:
        match error.code:
            case 401 | 403:
                raise RegistryError("denied", f"unauthorized: {self._whose()} ({error.code})") from error
            case 404:
                raise RegistryError("missing", "no such tag or repository") from error
            case code if 300 <= code < 400:
                raise RegistryError("unusable", "the registry sends us in circles, or to where we do not go") from error
            case _:
                raise RegistryError("unreachable", f"the registry answers {error.code}") from error

    def _whose(self) -> str:
        question = self._question
        if question.username or question.identity_token or question.registry_token:
            return "the registry does not take these credentials"
        return "there is no such image, or it wants credentials, as imagePullSecrets"

    def _answer(self, challenges: list[str]) -> str:
        """What to say to a registry that wants to know who we are."""
        for challenge in challenges:
            scheme, _, rest = challenge.strip().partition(" ")
            if scheme.lower() == "bearer":
                return f"Bearer {self._token(dict(_PARAMETER.findall(rest)))}"
            if scheme.lower() == "basic" and self._question.username:
                return self._basic()
        raise RegistryError("denied", f"unauthorized: {self._whose()} (401)")

    def _basic(self) -> str:
        pair = f"{self._question.username}:{self._question.password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def _token(self, challenge: Mapping[str, str]) -> str:
        question, realm = self._question, challenge.get("realm", "")
        if urlsplit(realm).scheme != "https" and not (question.plain_http and urlsplit(realm).scheme == "http"):
            raise RegistryError("unusable", f"the registry sends us to {realm[:200]!r} for a token, without TLS")
        form = {"service": challenge.get("service", ""), "scope": f"repository:{question.path}:pull"}
        if question.identity_token:
            form |= {"grant_type": "refresh_token", "refresh_token": question.identity_token}
            request = Request(realm, data=urlencode(form | {"client_id": "multicri-proxy"}).encode())  # noqa: S310
        else:
            separator = "&" if urlsplit(realm).query else "?"
            request = Request(f"{realm}{separator}{urlencode(form)}")  # noqa: S310
            if question.username:
                request.add_unredirected_header("Authorization", self._basic())
        try:
            answer = _json(self._read(request, LARGEST_TOKEN_BYTES)[0], "the token")
        except HTTPError as error:
            if error.code in {400, 401, 403}:  # OAuth2 says 400 of a refresh token that it does not know
                raise RegistryError("denied", f"unauthorized: {self._whose()} ({error.code})") from error
            self._refuse(error)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RegistryError("unusable", "the registry's token server gives no token")
        return token


def _json(body: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RegistryError("unusable", f"{what} is no JSON") from error
    if not isinstance(document, dict):
        raise RegistryError("unusable", f"{what} is no JSON object")
    return document


def _digest_of(body: bytes, wanted: str) -> str:
    """The digest of what came; if a digest was asked for, it must be that."""
    algorithm = wanted.partition(":")[0] if _DIGEST.fullmatch(wanted) else "sha256"
    digest = f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
    if _DIGEST.fullmatch(wanted) and digest != wanted:
        raise RegistryError("unusable", f"the registry sends something else than {wanted[:80]}")
    return digest


def _kind_of(document: Mapping[str, Any], media_type: str) -> str:
    """The document's own word is preferred: it is what its digest is of."""
    stated = document.get("mediaType")
    return stated if isinstance(stated, str) else media_type


def _of_platform(index: Mapping[str, Any], platform: str) -> str:
    system, architecture, *variant = platform.split("/")
    found = []
    for entry in index.get("manifests") or ():
        its = entry.get("platform") if isinstance(entry, dict) else None
        digest = entry.get("digest") if isinstance(entry, dict) else None
        if not isinstance(its, dict) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            continue
        found.append(f"{its.get('os')}/{its.get('architecture')}"[:40])
        if (its.get("os"), its.get("architecture")) == (system, architecture) and (
            not variant or its.get("variant") in (None, "", *variant)
        ):
            return digest
    has = ", ".join(sorted(set(found))[:20]) or "nothing"
    raise RegistryError("missing", f"the image is not there for {platform} (images.platform): it has {has}")


def _size_of(manifest: Mapping[str, Any]) -> int:
    total = 0
    layers = manifest.get("layers")
    for layer in layers if isinstance(layers, list) else [None]:
        size = layer.get("size") if isinstance(layer, dict) else None
        if not isinstance(size, int) or not 0 <= size < 1 << 50:
            raise RegistryError("unusable", "its manifest has layers without a size")
        total += size
    return max(1, total)


def _facts(document: Mapping[str, Any], platform: str) -> dict[str, Any]:
    system, architecture, *_ = platform.split("/")
    its = (document.get("os") or system, document.get("architecture") or architecture)
    if its != (system, architecture):
        raise RegistryError(
            "missing", f"the image is for {'/'.join(map(str, its))[:40]}, not for {platform} (images.platform)"
        )
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise RegistryError("unusable", "its configuration is no JSON object")
    facts: dict[str, Any] = {
        "entrypoint": _words(config, "Entrypoint"),
        "cmd": _words(config, "Cmd"),
        "env": _words(config, "Env"),
        "working_dir": _word(config, "WorkingDir"),
        "user": _word(config, "User"),
    }
    if len(json.dumps(facts)) > LARGEST_FACTS_BYTES:
        raise RegistryError("unusable", f"its configuration is larger than {LARGEST_FACTS_BYTES} bytes")
    return facts


def _words(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    words = config.get(name) or ()
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise RegistryError("unusable", f"its {name} is no list of words")
    return tuple(words)


def _word(config: Mapping[str, Any], name: str) -> str:
    word = config.get(name) or ""
    if not isinstance(word, str):
        raise RegistryError("unusable", f"its {name} is no word")
    return word


def main(question: IO[bytes], answer: IO[str]) -> None:
    """The program."""
    asked = Question(**json.loads(question.readline()))
    signal.setitimer(signal.ITIMER_REAL, asked.timeout_s + 1)  # who asked may be gone
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY_BYTES, LARGEST_MEMORY_BYTES))
    try:
        line: dict[str, Any] = asdict(find(asked))
    except RegistryError as error:
        line = {"error": error.kind, "message": str(error)}
    except URLError as error:
        line = {"error": "unreachable", "message": str(error.reason)}
    except (OSError, ValueError, MemoryError) as error:  # http.client says what it dislikes with ValueErrors
        line = {"error": "unreachable", "message": str(error) or type(error).__name__}
    answer.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout)
