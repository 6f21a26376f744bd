"""Reloading the policy: its file and documents are followed, and a good change is put in force.

Law: a policy takes the place of another in one assignment, and only after everything that it needs has been built; a
bad one never replaces a good one, and is logged as an error. Files are read on a thread of their own, for a bounded
time: the event loop waits for none.
"""

import logging
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from keyswap import audit
from keyswap import policy as policies
from keyswap.composition.resources import Resources
from keyswap.files import aside
from keyswap.model import StateError, Unread
from keyswap.operations.findings import DocumentError
from keyswap.shell.metrics.counters import Counts
from keyswap.shell.runtime.active_policy import ActivePolicy, PolicyLoader
from keyswap.shell.runtime.heap import freeze_heap, in_small_turns
from keyswap.shell.runtime.last_good import keep, kept
from keyswap.watched_files import Signature, looked

logger = logging.getLogger(__name__)

RELOAD_S = 60.0
"""How long a reload may take before it has failed."""
AGAIN_S = 5.0
"""Until a policy that could not be read, for whatever reason that may pass, is read again though it has not changed."""
WHOLE_EVERY = 20
"""After so many reloads the garbage collector looks at everything, which holds requests up."""


class PolicyText(NamedTuple):
    """A policy as its file has it at a start; without text and policy where a worker resumes."""

    signature: Signature
    raw: bytes | None
    policy: policies.Policy | None

    @classmethod
    def read(cls, file: Path, resumes: bool) -> "PolicyText":
        """Read and parse the file, before anything is made of it. Raises StateError."""
        signature = _signature(file)
        raw = None if resumes else policies.read(file)
        return cls(signature, raw, policies.parse(raw, str(file)) if raw is not None else None)


class _Attempt:
    """One reload; `given_up`: its time is over, and its result is dropped. `raw`: the policy's text, once read."""

    given_up = False
    raw: bytes | None = None


class PolicyReload:
    """Follows one policy file. `in_force` is the policy in force, `put_in_force` replaces it.

    `keeps`: the policy in force is kept for a worker that resumes.
    """

    def __init__(
        self,
        file: Path,
        resources: Resources,
        loader: PolicyLoader,
        counts: Counts,
        in_force: Callable[[], ActivePolicy],
        put_in_force: Callable[[ActivePolicy], None],
        keeps: bool,
    ) -> None:
        self.error: str | None = None
        self.raw: bytes | None = None
        """The text of the file as it was read last; None: it could not be read."""
        self.at = time.time()
        """When a policy was read last, whatever came of it, in epoch seconds."""
        self._file, self._resources, self._loader, self._counts, self._keeps = file, resources, loader, counts, keeps
        self._in_force, self._put_in_force = in_force, put_in_force
        self._files = resources.documents.files
        self._changed, self._again_at = False, 0.0
        self._reading = threading.Lock()
        self.prepare: Callable[[ActivePolicy], Coroutine[Any, Any, None]] = _nothing
        """Is awaited before a policy is put in force; what it raises refuses the policy."""

    # ---- The start

    def start(self, text: PolicyText) -> ActivePolicy:
        """The first policy: that of the file, or of a worker that resumes. Raises StateError."""
        self.raw = text.raw
        self._files.watch(self._file, text.signature)
        return self._loader.load(text.policy, None) if text.policy is not None else self._resume()

    def _resume(self) -> ActivePolicy:
        """The policy of the file; where that is no good, the one that was in force."""
        documents = self._resources.documents
        try:
            raw = self.raw = policies.read(self._file)
            policy = self._loader.load(policies.parse(raw, str(self._file)), None)
            self.keep(raw, policy)
        except Exception as error:
            last_good = kept(self._resources.state, self._file)
            if last_good is None:
                raise
            raw, documents.standing_in = last_good
            try:
                policy = self._loader.load(policies.parse(raw, str(self._file)), None)
            finally:
                documents.standing_in = None
            self.error = self._error_text(error)
            self._again_at = time.monotonic() + AGAIN_S if _may_pass(error) else 0.0
            logger.error("the policy that was in force stays so: %s", self.error)
        return policy

    def keep(self, raw: bytes, policy: ActivePolicy) -> None:
        """Keep a policy in force, with its documents, for a worker that resumes."""
        if self._keeps:
            parts = self._resources.documents.parts_of(policy.documents)
            keep(self._resources.state, self._file, raw, parts)

    # ---- Following

    async def ask_urls(self) -> None:
        """Look whether documents that came from URLs have changed there."""
        if await aside(self._resources.documents.changed, self._resources.documents, RELOAD_S):
            self._changed = True

    async def follow(self) -> None:
        """Reload when a file has changed, or could not be read a while ago."""
        if self._again_at and time.monotonic() >= self._again_at:
            self._changed, self._again_at = True, 0.0
        wanted = self._changed
        try:
            due = await aside(lambda: self._files.due(wanted), self.follow, RELOAD_S)
        except OSError as error:
            which = error.filename or self._file
            await self._failed(Unread(f"{which}: whether it has changed cannot be seen: the system does not answer"))
            return
        if due:
            self._changed = False
            await self.reload()

    async def reload(self) -> None:
        """Put the policy file's new content in force, or keep the old policy and log why."""
        before, attempt = self._in_force(), _Attempt()
        try:
            raw, after, whole = await aside(lambda: self._read_anew(before, attempt), self._read_anew, RELOAD_S)
        except Exception as error:  # noqa: BLE001 (whatever it is, the old policy stays, and the error is logged)
            attempt.given_up = True
            await self._failed(error, attempt.raw)
            return
        if not whole:  # it may have been half written when it was read: soon it will be again
            self._changed = True
            if after.log is not before.log:
                after.log.finish()
            return
        try:
            await self.prepare(after)
        except Exception as error:  # noqa: BLE001 (as above)
            if after.log is not before.log:
                after.log.finish()
            await self._failed(error, raw)
            return
        await self._succeeded(after, raw)

    def _read_anew(self, before: ActivePolicy, attempt: _Attempt) -> tuple[bytes, ActivePolicy, bool]:
        """Read policy and documents, one attempt at a time, on a thread of its own; and whether no file changed."""
        with self._reading, in_small_turns():
            raw = attempt.raw = policies.read(self._file)
            after = self._loader.load(policies.parse(raw, str(self._file)), before)
        if attempt.given_up and after.log is not before.log:
            after.log.finish()
        return raw, after, self._files.unchanged()

    async def _failed(self, error: Exception, raw: bytes | None = None) -> None:
        """Keep the old policy, and log why. An error that may pass by itself is tried again, and logged once."""
        self.raw = raw
        known, self.error = self.error, self._error_text(error)
        self.at = time.time()
        if _may_pass(error):
            self._again_at = time.monotonic() + AGAIN_S
            if self.error == known:
                return
        self._counts.reloads_refused += 1
        logger.error("the old policy stays in force: %s", self.error)
        with suppress(OSError):
            await self._audit()

    async def _succeeded(self, policy: ActivePolicy, raw: bytes) -> None:
        """Put a policy in force."""
        self.error, self.raw, self._again_at = None, raw, 0.0
        self.at = time.time()
        self._counts.reloads_taken += 1
        self._put_in_force(policy)
        freeze_heap(self._counts.reloads_taken % WHOLE_EVERY == 0)
        self._files.only({self._file, *self._resources.documents.files_of(policy.documents)})
        logger.warning("policy %s is in force", self._file)
        with suppress(OSError):
            await aside(lambda: self.keep(raw, policy), self.keep)
            await self._audit()

    async def _audit(self) -> None:
        """Write the outcome of a reload into the audit log. Raises OSError."""
        error, raw = self.error, self.raw
        await aside(lambda: audit.policy(self._resources.state.path, self._file, error, raw), audit.policy)

    def _error_text(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self._file}: it was not read, with its documents, within {RELOAD_S:g} s"
        return str(error) if isinstance(error, StateError) else f"{self._file}: {type(error).__name__} while reading it"


async def _nothing(_policy: ActivePolicy) -> None:
    """Nothing is to be prepared."""


def _may_pass(error: Exception) -> bool:
    """Whether a reload's error may pass though no file changes: the policy is read again after a while."""
    unavailable = isinstance(error, DocumentError) and error.finding.code == "unavailable"
    return unavailable or isinstance(error, OSError | Unread | policies.PolicyUnread)


def _signature(file: Path) -> Signature:
    """A file's signature; None also where it does not come in time."""
    try:
        return looked(file)
    except OSError:
        return None
