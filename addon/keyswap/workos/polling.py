"""Polling WorkOS for its events: no inbound port, and every machine polls for itself.

Law: of the processes that share a state directory one polls; when it ends, however it ends, another goes on where it
was. The cursor is kept only after everything before it was recorded. A cursor that WorkOS no longer knows means that
something was missed: every cached answer is looked up again. Each trouble is logged once, and polling tried again
within 30 s.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from keyswap.error_origin import origin
from keyswap.model import StateError
from keyswap.state import StateDirectory
from keyswap.workos.change_feed import Change, ChangeFeed
from keyswap.workos.client import Rejected, Unreachable
from keyswap.workos.events import OLDER_TYPES, TYPES, EventPage, Garbage, page

logger = logging.getLogger(__name__)

LOCK = "events.lock"
PAGE = 100
IDLE_S, MOST_S = 1.0, 30.0
"""How long nothing is asked when there is nothing new, and when it fails, at most."""
BACK_S = 3600.0
"""How far back polling begins without a cursor."""
DEADLINE_S = 10.0
_LONGEST_NOTE = 500
_CURSOR_REFUSED = {400, 404, 422}


class Client(Protocol):
    """The client that polls; see workos/client.py."""

    async def get(self, path: str, params: Mapping[str, str] = ..., *, deadline_s: float | None = ...) -> Any:
        """The parsed answer."""


class _Trouble(NamedTuple):
    kind: str
    why: str


def environment(base_url: str, api_key: str, client_id: str | None) -> str:
    """A name for the environment of events, which reveals nothing of the secret."""
    whose = client_id or hashlib.sha256(api_key.encode()).hexdigest()
    return hashlib.sha256(f"{base_url.rstrip('/')}\n{whose}".encode()).hexdigest()[:32]


class Poller:
    """Polls the events of one environment. For one event loop."""

    def __init__(
        self,
        state: StateDirectory,
        changes: ChangeFeed,
        client: Client,
        environment: str,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._path, self._changes, self._client, self._environment = state.file(LOCK), changes, client, environment
        self._clock, self._wait = clock, wait
        self._lock: int | None = None
        self._cursor: str | None = None
        self._since = 0.0
        self._types = TYPES
        self._told_of_types = False
        self._trouble: _Trouble | None = None
        self._pause_s = IDLE_S
        self._answered_at: float | None = None
        self.recorded = 0
        """Events that were new."""

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                pause_s = await self.turn(self._clock())
            except Exception as error:  # noqa: BLE001 (the other turns go on)
                logger.error("asking WorkOS for events failed; it will be tried again: %s", origin(error))
                pause_s = MOST_S
            await self._wait(pause_s)

    async def turn(self, now: float) -> float:
        """Ask once, if no other process does; in how many seconds the next turn is due. `now`: epoch seconds."""
        try:
            if not await self._holds(now):
                return IDLE_S
            page = await self._page(now)
            if page is None:
                return 0.0
            await self._record(page, now)
        except (Rejected, Unreachable) as error:
            kind = f"rejected {error.status}" if isinstance(error, Rejected) else "unreachable"
            return self._troubled(_Trouble(kind, error.why))
        except (StateError, OSError) as error:
            return self._troubled(_Trouble("state", str(error)))
        except Garbage as error:
            return self._troubled(_Trouble("garbage", str(error)))
        self._well(now)
        return 0.0 if page.full else IDLE_S

    def status(self, now: float) -> Mapping[str, object]:
        """What `keyswap status` says of it, also where another process asks. `now`: epoch seconds."""
        reason = self._trouble.why if self._trouble is not None else None
        if self._lock is None and reason is None:
            reason = _noted(self._path)
        return {
            "asks": self._lock is not None,
            "healthy": reason is None,
            "reason": reason,
            "answered_s_ago": None if self._answered_at is None else round(now - self._answered_at, 1),
            "place": self._cursor,
            "recorded": self.recorded,
            "all_types": self._types is TYPES,
        }

    def close(self) -> None:
        """Let another process ask."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _holds(self, now: float) -> bool:
        """Whether this is the process that asks; the place is read when it becomes so. Raises OSError, StateError."""
        if self._lock is not None:
            return True
        lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._cursor = await asyncio.to_thread(self._changes.cursor, self._environment)
        except BlockingIOError:
            os.close(lock)
            self._trouble = None
            return False
        except BaseException:
            os.close(lock)
            raise
        self._lock, self._since = lock, now - BACK_S
        self._note("")
        return True

    async def _page(self, now: float) -> EventPage | None:
        """The next page; None: it was refused, and is to be asked for otherwise. Raises Rejected, Unreachable."""
        params = {"events": ",".join(self._types), "limit": str(PAGE), "order": "asc"}
        params |= {"range_start": _iso(self._since)} if self._cursor is None else {"after": self._cursor}
        try:
            answer = await self._client.get("/events", params, deadline_s=DEADLINE_S)
        except Rejected as error:
            if error.status not in _CURSOR_REFUSED:
                raise
            if error.status != 404 and self._types is TYPES:
                self._types = OLDER_TYPES  # perhaps it is the newer names that it does not know
            elif self._cursor is not None:
                await self._begin_anew(now)
            else:
                raise
            return None
        return page(answer, PAGE, now)

    async def _begin_anew(self, now: float) -> None:
        logger.warning(
            "WorkOS no longer knows the event %s that was the last: everything remembered is asked for again, and "
            "events begin an hour ago",
            self._cursor,
        )
        missed = Change("all", "", False, now)
        await asyncio.to_thread(self._changes.record, f"anew-{self._environment}-{self._cursor}", [missed], now)
        await asyncio.to_thread(self._changes.keep_cursor, self._environment, None)
        self._cursor, self._since, self._types = None, now - BACK_S, TYPES

    async def _record(self, page: EventPage, now: float) -> None:
        for event in page.events:
            if event.fault is not None:
                logger.warning("an event of WorkOS is not shaped as it should be: %s (%s)", event.id, event.fault)
        recorded = [(event.id, event.changes) for event in page.events if event.changes]
        if recorded:
            self.recorded += await asyncio.to_thread(self._changes.record_all, recorded, now)
        if page.last is not None and page.last != self._cursor:
            await asyncio.to_thread(self._changes.keep_cursor, self._environment, page.last)
            self._cursor = page.last
        elif page.full:
            raise Garbage("WorkOS answers the same events again and again")

    def _note(self, why: str) -> None:
        """Leave the trouble in the lock's file, for the status of the processes that do not poll."""
        if self._lock is not None:
            with suppress(OSError):
                os.ftruncate(self._lock, 0)
                os.pwrite(self._lock, why.encode()[:_LONGEST_NOTE], 0)

    def _troubled(self, trouble: _Trouble) -> float:
        if self._trouble is None or self._trouble.kind != trouble.kind:
            logger.error("WorkOS' events cannot be had, it is tried again: %s", trouble.why)
            self._note(trouble.why)
        self._trouble = trouble
        self._types = TYPES
        pause_s, self._pause_s = self._pause_s, min(MOST_S, self._pause_s * 2)
        return pause_s

    def _well(self, now: float) -> None:
        if self._trouble is not None:
            logger.warning("WorkOS' events can be had again")
            self._note("")
        if self._types is not TYPES and not self._told_of_types:
            self._told_of_types = True
            logger.warning(
                "WorkOS does not know the events of agents here: their ends are seen when keys are asked for"
            )
        self._trouble, self._pause_s, self._answered_at = None, IDLE_S, now


def _noted(path: Path) -> str | None:
    """The trouble of the process that polls."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_NOTE).decode(errors="replace") or None
    except OSError:
        return None


def _iso(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
