"""One gateway process beside its requests: the policy in force, the state directory, counts, and the tending of all.

Law: the policy in force is replaced in one assignment. Whatever is tended has a task of its own or waits for nothing:
what hangs at one place lets nothing lapse at another. No data path and no event of mitmproxy's is known here.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from keyswap import audit
from keyswap.composition.resources import Resources
from keyswap.error_origin import origin
from keyswap.files import aside
from keyswap.limits.local.in_flight import KeptFile
from keyswap.model import Refuse, StateError, Upstream
from keyswap.policy import Policy
from keyswap.shell.admin.listener import AdminListener, KeyStoreRef
from keyswap.shell.decisions.pending import PendingDecision
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.store import FILE, DecisionStore
from keyswap.shell.decisions.writer import BackgroundWriter
from keyswap.shell.metrics import collect
from keyswap.shell.metrics.counters import Counts
from keyswap.shell.metrics.definitions import Snapshot
from keyswap.shell.metrics.prometheus import exposition
from keyswap.shell.runtime.active_policy import ActivePolicy, PolicyLoader
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.heap import freeze_heap
from keyswap.shell.runtime.readiness import readiness_problems
from keyswap.shell.runtime.reload import RELOAD_S, PolicyReload, PolicyText
from keyswap.shell.runtime.signing_keys import Signing
from keyswap.shell.runtime.well_known import misplaced
from keyswap.state import StateDirectory

logger = logging.getLogger(__name__)

WATCH_S = 0.5
URLS_S = 30.0
"""How often a document's URL is asked whether it has changed."""
LAST_USED_S = 10.0


class Tended(Protocol):
    """What a data path adds to the tending, such as the control socket."""

    async def tend(self) -> None:
        """Called twice a second."""

    async def close(self) -> None:
        """Called at the end."""


class Runtime:
    """One gateway process."""

    def __init__(
        self,
        file: Path,
        state: Path,
        upstream: Upstream | None,
        terminal: bool,
        certificate: Certificate | None = None,
        alone: bool = True,
        resumes: bool = False,
        share: int = 1,
        kept: KeptFile | None = None,
        unsupported: Callable[[Policy, Path], None] = lambda _policy, _file: None,
    ) -> None:
        """Load the policy. Raises StateError, as `unsupported` does for one that the data path cannot serve.

        `share`: how many processes are one gateway. `alone`: the admin listener is this process's. Else a supervisor
        has it, and the policy in force is kept for a worker that replaces this one; `resumes`: this one replaces
        another, and what that kept stands in for a policy that is no good. `kept`: as `Resources` has it.
        """
        self.file, self._certificate = file.absolute(), certificate
        self.listening: Callable[[], list[str]] = list
        self.traffic: Callable[[], collect.Traffic] = lambda: collect.Traffic(0, 0)
        self.counts, self.stopping = Counts(), False
        self.active: ActivePolicy
        try:
            text = PolicyText.read(self.file, resumes)
            self.resources = Resources(StateDirectory(state).open(), share, kept)
            self._load(text, PolicyLoader(self.file, self.resources, upstream, terminal, unsupported), keeps=not alone)
        except StateError as error:
            if state.is_dir():
                audit.policy(state, self.file, str(error))
            raise
        self._unhealthy: Refuse | None = None
        self._store = DecisionStore(self.resources.state.path, self.active.built.policy.log.retain)
        database = str(self.resources.state.file(FILE))
        self._storing = BackgroundWriter(database, PendingDecision.stored, self._store.write, self._store.close)
        freeze_heap(whole=False)
        self._tasks, self._tended = list[asyncio.Task[None]](), tuple[Tended, ...]()
        self._admin = AdminListener(self) if alone else None
        self._exposing = asyncio.Lock()

    def _load(self, text: PolicyText, loader: PolicyLoader, keeps: bool) -> None:
        """Put the first policy in force. Raises StateError."""
        self.signing = Signing(self.resources.keyring)
        in_force = (lambda: self.active), self._put_in_force
        self.reloads = PolicyReload(self.file, self.resources, loader, self.counts, *in_force, keeps=keeps)
        self.active = self.reloads.start(text)
        audit.policy(self.resources.state.path, self.file, self.reloads.error, self.reloads.raw)
        if text.raw is not None:
            self.reloads.keep(text.raw, self.active)

    def _put_in_force(self, policy: ActivePolicy) -> None:
        """Replace the policy in force."""
        before, self.active = self.active, policy
        if policy.log is not before.log:
            before.log.finish()
        retain = policy.built.policy.log.retain
        if self._store.retain != retain:
            self._store.retain = retain
            self._storing.nudge()

    async def begin(self, listening: Callable[[], list[str]], tended: Sequence[Tended] = ()) -> None:
        """Start the tending. `listening` tells the listener's addresses; what is `tended` is tended and closed too."""
        self.listening, self._tended = listening, tuple(tended)
        self._tasks = [
            asyncio.create_task(self._every(WATCH_S, self._tend), name="keyswap stores"),
            asyncio.create_task(self._every(WATCH_S, self._watch), name="keyswap watch"),
            asyncio.create_task(self._every(WATCH_S, self.follow_certificate), name="keyswap certificate"),
            asyncio.create_task(self._every(WATCH_S, self._follow_signing), name="keyswap signing keys"),
            asyncio.create_task(self._every(WATCH_S, self.reloads.follow), name="keyswap policy"),
            asyncio.create_task(self._every(URLS_S, self.reloads.ask_urls), name="keyswap documents"),
            asyncio.create_task(self._every(LAST_USED_S, self._keep_last_used), name="keyswap last used"),
        ]
        if not self._store.retain:
            self._storing.nudge()  # what an earlier policy kept
        await self._watch()
        if self._admin is not None and (warning := self.misplaced) is not None:
            logger.warning("%s", warning)

    @property
    def misplaced(self) -> str | None:
        """Why backends would not find the key set, as far as listener and issuer tell."""
        return misplaced(self.active.built.policy.issuer, self.listening())

    async def _tend_admin(self) -> None:
        if self._admin is not None:
            await self._admin.tend(self.active.admin)

    @property
    def admin_address(self) -> str | None:
        """HOST:PORT of this process's admin listener, while it listens."""
        return self._admin.address if self._admin is not None else None

    async def end(self) -> None:
        """Stop the tending, and write what was gathered."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.signing.end()
        for part in self._tended:
            await part.close()
        if self._admin is not None:
            await self._admin.close()
        self.active.log.finish()
        self._storing.finish()
        await asyncio.gather(asyncio.to_thread(self.active.log.join), asyncio.to_thread(self._storing.join))
        await self.resources.release()
        self.resources.close()

    async def _every(self, period_s: float, act: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                waits = act()
                if asyncio.iscoroutine(waits):
                    await waits
            except Exception as error:  # noqa: BLE001 (the next time may go well)
                logger.error("%s failed; it will be tried again: %s", act.__name__, origin(error))

    async def _keep_last_used(self) -> None:
        await asyncio.to_thread(self.resources.flush)

    def _tend(self) -> None:
        """Tend the stores. This task does nothing else: what waits elsewhere lets no lease lapse."""
        now = time.time()
        self.resources.tend(self.active.built, now)
        refused = self.active.built.unhealthy(now)
        if (refused is None) != (self._unhealthy is None):
            if refused is not None:
                logger.error("requests with a credential are refused until it can be used: %s", refused.reason)
            else:
                logger.warning("the key database can be used again")
        self._unhealthy = refused

    async def _watch(self) -> None:
        for part in self._tended:
            await part.tend()
        await self._tend_admin()

    async def follow_certificate(self) -> None:
        """Take a renewed certificate."""
        if self._certificate is not None:
            await aside(self._certificate.renew, self._certificate, RELOAD_S)

    async def _follow_signing(self) -> None:
        await self.signing.tend(time.monotonic())

    def record(self, line: Line, policy: ActivePolicy | None = None) -> None:
        """Count a decision, log it and store it: every decision comes through here.

        It is encoded once, as `policy` (None: the one in force) has it, and not at all where neither log nor store
        wants it. It goes where the lines of the policy in force go.
        """
        self.counts.record(line)
        log, retain = self.active.log.lines, self._store.retain
        if log is None and not retain:
            return
        pending = PendingDecision(line, (policy or self.active).encoding)
        if log is not None:
            log.write(pending)
        if retain:
            self._storing.write(pending)

    async def snapshot(self) -> Snapshot:
        """Everything that this process has counted: a JSON value, gathered beside the requests."""
        state = collect.PolicyState(self.active.at, self.reloads.at, self.reloads.error is not None)
        keys = self.active.built.keyring.keys
        counted = self.counts, self.resources, keys, state, self.traffic()
        return await asyncio.to_thread(collect.snapshot, *counted, time.time())

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics of this process alone, one page at a time."""
        async with self._exposing:
            return await asyncio.to_thread(exposition, await self.snapshot(), accept)

    async def readiness(self) -> Mapping[str, str]:
        """Why this process is not ready, by the part that is amiss; empty: it is."""
        return readiness_problems(self.active.built, self.stopping, self.reloads.error is not None, time.time())

    @property
    def key_store(self) -> KeyStoreRef:
        """What the admin listener manages."""
        return KeyStoreRef(self.resources.state.path, self.active.built.policy.api_keys.prefix)

    async def jwks(self) -> Mapping[str, object]:
        """The signing keys' set, for the admin listener."""
        await self.signing.current()
        document = self.active.built.key_set.jwks(time.time())
        return {"body": document.body.decode(), "etag": document.etag, "max_age_s": document.max_age_s}

    def is_upstream(self, host: str, port: int) -> bool:
        """Whether the policy in force sends requests to this address."""
        return (host, port) in self.active.addresses
