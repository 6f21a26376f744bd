"""An issuer as the tests have it: keys, a JWKS endpoint on loopback, tokens signed by joserfc and cryptography.

Nothing here uses the code that is tested: a header is whatever a test says it is, and the signature is over that.
"""

import contextlib
import json
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import RSAKey

NOW = 1_800_000_000
ENVIRONMENT = "client_01TEST"
AUTHKIT = f"https://api.workos.test/user_management/{ENVIRONMENT}"
CONNECT = "https://tests.authkit.test"
OWN = "https://gw.example"

Claims = dict[str, Any]


@cache
def key(kid: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The private key of this name: one a run."""
    return rsa.generate_private_key(65537, bits)


def jwk(kid: str, **given: Any) -> dict[str, Any]:
    """The public key of this name as an issuer publishes it, by joserfc."""
    found = RSAKey.import_key(key(kid).public_key()).as_dict(private=False)
    return {**found, "kid": kid, "use": "sig", "alg": "RS256"} | given


def b64(raw: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def as_json(value: object) -> bytes:
    """JSON as issuers write it."""
    return json.dumps(value, separators=(",", ":")).encode()


def rs256(private: rsa.RSAPrivateKey, signed: bytes) -> bytes:
    """An RSASSA-PKCS1-v1_5 signature with SHA-256."""
    return private.sign(signed, padding.PKCS1v15(), SHA256())


def header(kid: str = "a", **given: Any) -> dict[str, Any]:
    """A token's header as WorkOS writes it."""
    return {"alg": "RS256", "kid": kid} | given


def signed(head: bytes, body: bytes, kid: str = "a") -> str:
    """A token of exactly these bytes, signed with RS256 by the key of this name."""
    text = f"{b64(head)}.{b64(body)}"
    return f"{text}.{b64(rs256(key(kid), text.encode()))}"


def token(claims: Mapping[str, Any], kid: str = "a", head: Mapping[str, Any] | None = None) -> str:
    """A token with these claims, as it comes from the issuer."""
    return signed(as_json(head or header(kid)), as_json(claims), kid)


def without(claims: Claims, *names: str) -> Claims:
    """The same without some claims."""
    return {name: value for name, value in claims.items() if name not in names}


def user(now: int = NOW, **given: Any) -> Claims:
    """The claims of a user's session (AuthKit)."""
    return {
        "iss": AUTHKIT,
        "sub": "user_1",
        "sid": "session_1",
        "org_id": "org_1",
        "role": "admin",
        "roles": ["admin", "member"],
        "permissions": ["pets:read", "pets:write"],
        "entitlements": ["audit-logs"],
        "feature_flags": [],
        "jti": "jti_1",
        "auth_time": now - 600,
        "iat": now - 10,
        "exp": now + 290,
    } | given


def client(now: int = NOW, **given: Any) -> Claims:
    """The claims of an OAuth client's token for a user (Connect)."""
    return {
        "iss": CONNECT,
        "aud": ENVIRONMENT,
        "sub": "user_1",
        "sid": "app_consent_1",
        "client_id": "client_app_1",
        "org_id": "org_1",
        "scope": "openid pets:read",
        "jti": "jti_2",
        "iat": now - 10,
        "exp": now + 290,
    } | given


def machine(now: int = NOW, **given: Any) -> Claims:
    """The claims of a machine-to-machine client's token (Connect)."""
    return without(client(now, sub="client_app_1"), "sid") | given


def agent(now: int = NOW, **given: Any) -> Claims:
    """The claims of an agent's token, by the environment's own key."""
    return {
        "iss": AUTHKIT,
        "sub": "agent_1",
        "sub_profile": "agent",
        "sid": "agent_session_1",
        "org_id": "org_1",
        "act": {"sub": "user_1"},
        "permissions": ["pets:read"],
        "jti": "jti_3",
        "iat": now - 10,
        "exp": now + 290,
    } | given


class Endpoint:
    """A JWKS endpoint: what it answers can be changed, what it was asked is counted, and it can be made to wait."""

    def __init__(self, *kids: str, tls: ssl.SSLContext | None = None) -> None:
        self.publish(*(kids or ("a",)))
        self.status, self.asked, self.hits = 200, list[str](), 0
        self.headers: dict[str, str] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.hits += 1
                endpoint.asked.append(self.path)
                endpoint.go_on.wait(20)
                body = endpoint.body
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/sso/jwks/{ENVIRONMENT}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def publish(self, *kids: str) -> None:
        """Answer with these keys."""
        self.body = as_json({"keys": [jwk(kid) for kid in kids]})

    def close(self) -> None:
        """Listen no more."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


def endpoint(*kids: str) -> Iterator[Endpoint]:
    """An endpoint that is closed in the end."""
    found = Endpoint(*kids)
    try:
        yield found
    finally:
        found.close()
