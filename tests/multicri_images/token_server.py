"""Gives tokens for the bed's registry as Docker Hub and others do: by password, or for a refresh token."""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from testbed import Testbed
from testbed.door import PASSWORD, USER

REFRESH_TOKEN = "a-refresh-token"
REALM = "test bed"
PORT = 5445


@contextmanager
def token_server(bed: Testbed) -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the scopes that were asked for."""
    scopes: list[str] = []
    authority = bed.registry.authority

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            self._answer(parse_qs(urlsplit(self.path).query), self.headers.get("Authorization") == f"Basic {basic}")

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self._answer(form, form.get("refresh_token") == [REFRESH_TOKEN])

        def _answer(self, form: dict[str, list[str]], known: bool) -> None:
            [scope] = form["scope"]
            scopes.append(scope)
            body = json.dumps({"token": _token(authority.certificate, authority.key, scope)} if known else {}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name there)
            """Nothing."""

    server = ThreadingHTTPServer((bed.registry.address, PORT), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    directory = bed.settings.run / "registry"
    context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://{bed.registry.address}:{PORT}/token", scopes
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def registry_token(bed: Testbed, scope: str) -> str:
    """One that the registry takes as it is, for ten minutes."""
    return _token(bed.registry.authority.certificate, bed.registry.authority.key, scope)


def _token(certificate: Path, key: Path, scope: str) -> str:
    """A JSON web token, signed by the authority. Source: distribution, "Token Authentication Implementation"."""
    kind, name, actions = scope.split(":")
    signer = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    der = x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    now = int(time.time())
    claims = {
        **{"iss": REALM, "aud": REALM, "sub": USER, "jti": "1"},
        **{"nbf": now - 60, "iat": now - 60, "exp": now + 600},
        "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
    }
    signed = f"{_text(json.dumps(header).encode())}.{_text(json.dumps(claims).encode())}"
    r, s = utils.decode_dss_signature(signer.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_text(r.to_bytes(32) + s.to_bytes(32))}"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
