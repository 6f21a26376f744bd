"""What the tests of sessions share: a verifier over two real key sets, and what events have ended."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from keyswap.model import Credential, Principal, Refuse, Request
from keyswap.sessions.issuer_keys import KeySets
from keyswap.sessions.kinds import Issuer
from keyswap.sessions.verifier import SessionVerifier
from tests.sessions.issuing import AUTHKIT, CONNECT, ENVIRONMENT, NOW, OWN, Endpoint

REQUEST = Request("GET", b"/pets", (), "127.0.0.1")


class Ended:
    """What events have told, as the verifier asks for it."""

    def __init__(self) -> None:
        self.generation = 0
        self.asked = 0
        self._ended: dict[tuple[str, str], float] = {}

    def end(self, kind: str, named: str, at: float) -> None:
        self._ended[kind, named] = at
        self.generation += 1

    def take_in(self, now: float) -> None:
        pass

    def ended(self, kind: str, id: str, since: float) -> bool:
        self.asked += 1
        return self._ended.get((kind, id), -1.0) >= since


class Door:
    """A verifier, and all that it stands on."""

    def __init__(self, authkit: Endpoint, connect: Endpoint, *extra: Issuer, **given: Any) -> None:
        self.keysets, self.changes = KeySets(), Ended()
        self.clock_s = 0.0
        self.verifier = SessionVerifier(
            [*entries(authkit, connect, **given), *extra],
            OWN,
            self.keysets,
            self.changes,
            clock=lambda: self.clock_s,
        )

    async def __call__(self, text: str, now: float = NOW) -> Principal | Refuse:
        return await self.verifier(Credential("session", text), REQUEST, now)

    def one(self, text: str, now: float = NOW) -> Principal | Refuse:
        """The same, with an event loop of its own."""
        return run(self(text, now))


def entries(authkit: Endpoint, connect: Endpoint, **given: Any) -> Sequence[Issuer]:
    """The entries that a policy for users and clients has."""
    scopes = {"permissions_from": "scope"}
    return [
        Issuer("authkit", (AUTHKIT,), authkit.url, client_ids=(ENVIRONMENT,), **given),
        Issuer("connect", (CONNECT,), connect.url, (ENVIRONMENT,), **scopes, **given),  # type: ignore[arg-type]
    ]


def run[T](work: Coroutine[Any, Any, T]) -> T:
    """Do it in an event loop."""
    return asyncio.run(work)
