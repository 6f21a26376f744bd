"""Who calls: keys of several organizations in every state that a key may have, and sessions, good and bad.

A cast of callers has limits of its own, and serves for a while; then comes the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from harness import Home
from keyswap.keys.local.writer import Ledger
from tests.engines.wire import Wire
from tests.sessions.issuing import AUTHKIT, ENVIRONMENT, OWN, Claims, b64, token, user, without

LASTS = 250
"""Requests of one cast."""


@dataclass(frozen=True)
class Cast:
    """Callers who share nothing with those of another cast."""

    good: dict[str, str]
    """Credentials by what they are."""
    bad: dict[str, str]
    sessions: dict[str, str]
    spoiled: dict[str, str]
    """Tokens that are nobody's session."""

    @property
    def credentials(self) -> Iterator[str]:
        """All of them, in the order in which each cast has them."""
        for values in (self.good, self.bad, self.sessions, self.spoiled):
            yield from values.values()


class Strays:
    """Callers of requests that limits may count on one data path and not on another: nobody has another's limits.

    Their keys have a plan by which no limit is reached, and each request comes from an address of its own.
    """

    def __init__(self, home: Home, now: float) -> None:
        self._now = int(now)
        with home.ledger() as ledger:
            self._cast = _cast(ledger, "strays", now, "unbounded")
        self._made = 0

    def instead(self, wire: Wire, cast: Cast) -> Wire:
        """The request as one of them sends it: with the same kinds of credentials."""
        self._made += 1
        ours = replace(self._cast, sessions=_sessions(f"stray_{self._made}", self._now))
        fields = list(wire.fields)
        for theirs, mine in zip(cast.credentials, ours.credentials, strict=True):
            if len(theirs) > 8:
                fields = [(name, value.replace(theirs.encode(), mine.encode())) for name, value in fields]
        fields = [(name, b"10.0.0.9" if name.lower() == b"x-forwarded-for" else value) for name, value in fields]
        return replace(wire, fields=tuple(fields), number=(1 << 15) + self._made, is_stray=True)


def casts(home: Home, number: int, now: float) -> list[Cast]:
    """Make the keys of these many casts in the state directory."""
    with home.ledger() as ledger:
        return [_cast(ledger, str(one), now) for one in range(number)]


def _cast(ledger: Ledger, number: str, now: float, plan: str | None = None) -> Cast:
    org = f"org_{number}"

    def made(**given: Any) -> str:
        return ledger.create(now=now, **{"org_id": org, "plan": plan, **given})[1]

    good = {
        "reader": made(permissions=["read"], user_id=f"user_{number}"),
        "organization": made(permissions=["read"], org_id=f"{org}_b"),
        "admin": made(permissions=["read", "admin"], roles=["owner"], org_id=f"{org}_b"),
        "nothing": made(permissions=[], org_id=f"{org}_c"),
        "free": made(permissions=["read"], plan=plan or "free", org_id=f"{org}_c"),
        "here": made(permissions=["read"], allow_ip=["127.0.0.0/8"], org_id=f"{org}_d"),
        "soon": made(permissions=["read"], expires_at=int(now) + 86400, org_id=f"{org}_d"),
    }
    return Cast(good, dict(_bad(ledger, org, now)), _sessions(number, int(now)), _spoiled(number, int(now)))


def _bad(ledger: Ledger, org: str, now: float) -> Iterator[tuple[str, str]]:
    before = now - 7200
    for state in ("revoked", "disabled", "expired", "blocked"):
        ends = int(now) - 3600 if state == "expired" else None
        key, value = ledger.create(now=before, org_id=org, permissions=["read", "admin"], expires_at=ends)
        if state == "revoked":
            ledger.revoke(key.id, None, now)
        elif state == "disabled":
            ledger.disable(key.id, now)
        elif state == "blocked":
            ledger.block(key.id, None, now)
        yield state, value
    _, value = ledger.create(now=now, org_id=org, permissions=["read"], allow_ip=["192.0.2.0/24"])
    yield "elsewhere", value
    yield "truncated", value[:-7]
    yield "wrong sum", value[:-6] + "AAAAAA"
    yield "unknown", "sk_example_" + value[-30:]
    yield "with a comma", f"{value},{value}"
    yield "long", "k" * 600
    yield "letters", "schlüssel"
    yield "empty", ""


def _sessions(number: str, now: int) -> dict[str, str]:
    given: Claims = {"exp": now + 7 * 86400, "org_id": f"org_{number}", "aud": ENVIRONMENT, "permissions": ["read"]}

    def of(name: str, **more: Any) -> Claims:
        return user(now, sub=f"user_{number}_{name}", sid=f"session_{number}_{name}", **given | more)

    return {
        "user": token(of("user")),
        "other": token(of("other")),
        "alone": token(without(of("alone"), "org_id", "role")),
        "admin": token(of("admin", permissions=["read", "admin"])),
    }


def _spoiled(number: str, now: int) -> dict[str, str]:
    good: Claims = user(now, exp=now + 7 * 86400, aud=ENVIRONMENT, sid=f"session_{number}", permissions=["read"])
    head, body, signature = token(good).split(".")
    other = f"{b64(b'{"alg":"none"}')}.{body}."
    return {
        "expired": token(good | {"exp": now - 3600}),
        "of another audience": token(good | {"aud": "client_other"}),
        "of another issuer": token(good | {"iss": AUTHKIT + "x"}),
        "of the gateway": token(good | {"iss": OWN}),
        "by another key": token(good, "b"),
        "unsigned": other,
        "with another signature": f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        "cut": f"{head}.{body}.",
        "no token": f"{head}.{body[:-3]}.{signature}",
    }
