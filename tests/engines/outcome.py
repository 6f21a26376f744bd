"""What became of a request on one data path, without what two requests cannot have in common.

Law: only ids, times, ports, the spelling and order of field names, and the framing of bodies are taken out. That an id
is the same wherever it stands is kept, and so is how long a token lives.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tests.attacks.recorder import Request
from tests.engines.wire import Wire

Fields = dict[str, str]
ALGORITHMS = ["RS256", "ES256"]
_FRAMING = {"content-length", "transfer-encoding", "connection", "keep-alive", "date", "server"}
_COMMAS = re.compile(r"[ \t]*,[ \t]*")
_ID = re.compile(r"[0-9a-f]{24}|[0-9a-f]{32}")
_TIMED = re.compile(r"retry-after|ratelimit|x-ratelimit-reset")


@dataclass(frozen=True)
class Seen:
    """A request as a backend received it."""

    backend: str
    method: str
    target: str
    fields: Fields
    claims: dict[str, Any] | None
    content: str


@dataclass(frozen=True)
class Outcome:
    """An answer, and what backends received. `status` None: there was no answer."""

    status: int | None
    code: str | None = None
    refusal: str = ""
    """The members of a refusal."""
    fields: Fields | None = None
    content: str = ""
    seen: tuple[Seen, ...] = ()
    malformed: int = 0
    """How often backends received what is no request."""

    @property
    def verdict(self) -> tuple[int | None, str | None, int]:
        """What was decided."""
        return self.status, self.code, len(self.seen)


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _values(request: Request) -> list[str]:
    return [_text(value) for value in request.values("x-request-id")]


def short(body: bytes) -> str:
    """A body as text, a long one as its length and SHA-256."""
    return _text(body) if len(body) < 300 else f"{len(body)} bytes {hashlib.sha256(body).hexdigest()}"


def joined(fields: Iterable[tuple[str, str]]) -> Fields:
    """Fields by name in small letters, lines of one name joined as HTTP has it (RFC 9110 §5.3, RFC 6265 §5.4)."""
    lines: dict[str, list[str]] = {}
    for name, value in fields:
        lines.setdefault(name.lower(), []).append(value)
    return {
        name: "; ".join(values) if name == "cookie" else _COMMAS.sub(", ", ", ".join(values))
        for name, values in lines.items()
    }


class Reader:
    """Makes outcomes of one data path. `keys` are those that it publishes; `backends` are authorities by name."""

    def __init__(self, keys: KeySet, backends: Mapping[str, str]) -> None:
        self._keys = keys
        self._names = {authority: f"backend {name}" for name, authority in backends.items()}

    def outcome(
        self,
        wire: Wire,
        answer: tuple[int, Sequence[tuple[str, str]], bytes] | None,
        received: Iterable[tuple[str, Request]],
        malformed: int,
    ) -> Outcome:
        """`received`: names of backends, and what they got; `malformed`: how often they got what is no request."""
        requests = list(received)
        seen = tuple(self._seen(wire, name, request) for name, request in requests)
        if answer is None:
            return Outcome(None, seen=seen, malformed=malformed)
        status, pairs, body = answer
        fields = {name: value for name, value in joined(pairs).items() if name not in _FRAMING}
        request_id = fields.get("x-request-id", "")
        if any(_values(request) != [request_id] for _, request in requests):
            fields["x-request-id"] = "another than the backend's"
        fields = {name: self._plain(name, value, wire) for name, value in fields.items()}
        code, refusal = None, ""
        if fields.get("content-type") == "application/problem+json" and body:
            told = json.loads(body)
            same = told.pop("request_id", None) == request_id
            refusal = _without_times(json.dumps({**told, "request_id": same}, sort_keys=True))
            code, body = told["code"], b""
        return Outcome(status, code, refusal, fields, short(body), seen, malformed)

    def _seen(self, wire: Wire, name: str, request: Request) -> Seen:
        fields = joined((_text(known), _text(value)) for known, value in request.headers)
        claims = self._claims(fields.pop("authorization")) if "authorization" in fields else None
        fields = {known: self._plain(known, value, wire) for known, value in fields.items() if known not in _FRAMING}
        return Seen(name, _text(request.method), _text(request.target), fields, claims, short(request.body))

    def _plain(self, name: str, value: str, wire: Wire) -> str:
        """A value without what differs by path or time."""
        if name == "x-request-id":
            return "an id" if _ID.fullmatch(value) and value.encode("latin-1") not in wire.raw else value
        if name == "traceparent" and value.encode("latin-1") not in wire.raw:
            return re.sub(r"[0-9a-f]{32}-[0-9a-f]{16}", "a new trace", value)
        return _without_times(value) if _TIMED.fullmatch(name) else self._names.get(value, value)

    def _claims(self, value: str) -> dict[str, Any]:
        """What a token says, of which nobody may doubt the signature."""
        scheme, _, token = value.partition(" ")
        try:
            found = jwt.decode(token, self._keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError) as error:
            return {"no token": f"{scheme} {token[:40]} {type(error).__name__}: {error}"}
        claims = {name: value for name, value in found.claims.items() if name not in {"jti", "iat", "exp", "nbf"}}
        life = found.claims["exp"] - found.claims["iat"]
        return {**claims, "a life of": life, "header": {**found.header, "scheme": scheme}}


def _without_times(text: str) -> str:
    """Seconds until something are not the same a moment later."""
    return re.sub(r'(?<=;t=)\d+|(?<="retry_after": )\d+|(?<=in )\d+(?= s)|^\d{2,}$', "some time", text)
