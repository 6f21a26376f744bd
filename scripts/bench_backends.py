"""The parts of bench_identity.py that are programs: an identity service, and a backend of each kind, on loopback.

`identity PORT DELAY_MS KEY` answers WorkOS' validations, so many milliseconds late. `asking PORT IDENTITY` asks it
about every request's key, over connections that stay open; `verifying PORT ISSUER` verifies every request's token by a
key set that it keeps. Both backends are the same in all else: uvicorn, one process, one small answer.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import jwt
import uvicorn

Scope = MutableMapping[str, Any]
Judge = Callable[[str], Awaitable[bool]]
"""Whether a request with this credential is answered."""
MADE = "2026-01-15T12:00:00.000Z"


class Identity(asyncio.Protocol):
    """One connection to the identity service."""

    def __init__(self, delay_s: float, key: str) -> None:
        self.delay_s = delay_s
        self.asked = json.dumps({"value": key}, separators=(",", ":")).encode()
        api_key = {
            "object": "api_key", "id": "api_key_1", "owner": {"type": "organization", "id": "org_1"}, "name": "bench",
            "obfuscated_value": "sk_...0000", "last_used_at": None, "expires_at": None, "permissions": ["pets:read"],
            "created_at": MADE, "updated_at": MADE,
        }  # fmt: skip
        self.good, self.bad = answered({"api_key": api_key}), answered({"api_key": None})
        self.waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request that is whole; who asks waits for the answer before it asks again."""
        self.waiting += data
        head, _, body = self.waiting.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if not lengths or len(body) < int(lengths[0].partition(b":")[2]):
            return
        said = json.dumps(json.loads(body), separators=(",", ":")).encode()
        self.waiting = b""
        answer = self.good if said == self.asked else self.bad
        if self.delay_s:
            asyncio.get_running_loop().call_later(self.delay_s, self.transport.write, answer)
        else:
            self.transport.write(answer)


def answered(content: object) -> bytes:
    """A whole answer."""
    body = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def identity(port: int, delay_ms: float, key: str) -> None:
    """Serve the identity service."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Identity(delay_ms / 1000, key), "127.0.0.1", port)
    await server.serve_forever()


def asking(url: str) -> Judge:
    """Ask the identity service, each time."""
    client = httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer sk_of_the_backend"}, timeout=10)

    async def judge(key: str) -> bool:
        answer = await client.post("/api_keys/validations", json={"value": key})
        return answer.json()["api_key"] is not None

    return judge


def verifying(issuer: str) -> Judge:
    """Verify a token; the key set is fetched by the first."""
    keys = jwt.PyJWKClient(f"{issuer}/.well-known/jwks.json")

    async def judge(token: str) -> bool:
        try:
            jwt.decode(token, keys.get_signing_key_from_jwt(token), algorithms=["RS256"], issuer=issuer)
        except jwt.PyJWTError:
            return False
        return True

    return judge


def serve(port: int, judge: Judge) -> None:
    """A backend that answers whom `judge` accepts."""

    async def application(scope: Scope, receive: Any, send: Callable[[Scope], Awaitable[None]]) -> None:  # noqa: ARG001
        value = dict(scope["headers"]).get(b"authorization", b"").decode()
        good = value.startswith("Bearer ") and await judge(value.removeprefix("Bearer "))
        body = b'{"ok": true}' if good else b'{"ok": false}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200 if good else 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(application, host="127.0.0.1", port=port, log_level="error", access_log=False, lifespan="off")


def main() -> None:
    """`identity PORT DELAY_MS KEY`, `asking PORT IDENTITY` or `verifying PORT ISSUER`."""
    what, port, about, *key = sys.argv[1:]
    if what == "identity":
        return asyncio.run(identity(int(port), float(about), key[0]))
    return serve(int(port), asking(about) if what == "asking" else verifying(about))


if __name__ == "__main__":
    main()
