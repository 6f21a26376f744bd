"""What lives beside the requests: the policy in force and its reload, the state directory, counts, those who ask.

Law: a policy takes the place of another in one assignment, and only after everything that it needs has been built; a
bad one never replaces a good one, and says so loudly.
"""

import asyncio
import ctypes
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from keyswap import audit
from keyswap import policy as policies
from keyswap.composition.gate import Built, build, modes_of
from keyswap.composition.resources import Resources
from keyswap.files import aside
from keyswap.limits.headers import fields
from keyswap.model import Headers, Level, Refuse, StateError, Unread, Upstream
from keyswap.operations.findings import DocumentError
from keyswap.operations.openapi.document import OpenApiDocument
from keyswap.operations.openapi.watched_files import Signature, looked
from keyswap.request.headers import HeaderPolicy
from keyswap.request.hosts import Hosts
from keyswap.shell.admin.listener import AdminListener, KeyStoreRef, Settings
from keyswap.shell.connections.bounds import Bounds
from keyswap.shell.control.control_socket import Answer, ControlSocket
from keyswap.shell.decisions.encode import Encoding
from keyswap.shell.decisions.masking import Masking
from keyswap.shell.decisions.record import Line
from keyswap.shell.decisions.store import FILE, DecisionStore
from keyswap.shell.decisions.writer import BackgroundWriter, DecisionLog
from keyswap.shell.metrics import collect
from keyswap.shell.metrics.counters import Counts
from keyswap.shell.metrics.definitions import Snapshot
from keyswap.shell.metrics.prometheus import exposition
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.last_good import keep, kept
from keyswap.shell.runtime.signing_keys import Signing
from keyswap.shell.runtime.well_known import misplaced, served
from keyswap.state import StateDirectory

logger = logging.getLogger(__name__)

WATCH_S = 0.5
RELOAD_S = 60.0
"""How long a reload may take before it has failed."""
_TURN_S = 0.0005
AGAIN_S = 5.0
"""Until a policy that could not be read, for whatever reason that may pass, is read again though it has not changed."""
URLS_S = 30.0
"""How often a document's URL is asked whether it has changed."""
LAST_USED_S = 10.0
WHOLE_EVERY = 20
"""After so many reloads the garbage collector looks at everything, which holds requests up."""


@dataclass(frozen=True, slots=True)
class ActivePolicy:
    """A policy in force, and all that was made from it."""

    built: Built
    washing: HeaderPolicy
    log: DecisionLog
    encoding: Encoding
    keep_host: bool
    own: Mapping[bytes, bytes]
    """The paths that the gateway answers itself, as `own.served` has them."""
    hosts: Hosts
    bounds: Bounds
    addresses: frozenset[tuple[str, int]]
    """Host and port of every upstream."""
    admin: Settings | None
    at: float

    @property
    def documents(self) -> list[OpenApiDocument]:
        """The documents of its APIs."""
        return [api.document for api in self.built.catalogue.apis] if self.built.catalogue is not None else []

    def limit_fields(self, levels: tuple[Level, ...]) -> Headers:
        """What callers are told of limits."""
        return fields(levels, self.built.policy.limit_headers) if levels else ()

    def told(self, levels: tuple[Level, ...], asked: Headers) -> Headers:
        """What is said beside a refusal: its limits, and what lets a browser's code read it. `asked`: its headers."""
        return (*self.limit_fields(levels), *self.built.cors.exposed(asked))


def _washing(policy: policies.Policy) -> HeaderPolicy:
    sessions = [place for rule in policy.sessions for place in rule.read_from]
    headers = [place.header for place in policy.api_keys.read_from]
    headers += [place.header for place in sessions if place.header is not None]
    cookies = [place.cookie for place in sessions if place.cookie is not None]
    return HeaderPolicy(
        headers, policy.strip_headers, policy.trusted_proxies, cookies, policy.keep_headers, Masking.of(policy)
    )


def settle(whole: bool) -> None:
    """Spare the garbage collector what was loaded: with large documents in it, a full collection takes 200 ms.

    What is replaced goes by counted references: a document holds no cycles. `whole`: cycles that earlier ones have
    spared with all else are looked for too; else the young ones alone, which takes 2 ms. What reading a document took
    is given back to the system, where its library can do that (glibc's malloc_trim).
    """
    if whole:
        gc.unfreeze()
    gc.collect(2 if whole else 1)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


class _Attempt:
    """One reload, from which nobody may wait for an answer any more."""

    given_up = False


@contextmanager
def _in_small_turns() -> Iterator[None]:
    """Let other threads have the interpreter more often: an event loop that serves would wait 5 ms for each turn."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _may_pass(error: Exception) -> bool:
    """Whether what a reload failed of may end though no file changes: it is read again after a while."""
    unavailable = isinstance(error, DocumentError) and error.finding.code == "unavailable"
    return unavailable or isinstance(error, OSError | Unread | policies.PolicyUnread)


def _looked(file: Path) -> Signature:
    """A file's signature; None also where it does not come in time."""
    try:
        return looked(file)
    except OSError:
        return None


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
    ) -> None:
        """Load the policy. Raises StateError. `share`: how many processes are one gateway.

        `alone`: no other process answers commands and has the admin listener for this one. Else what is in force is
        kept for whoever takes its place; `resumes`: it takes the place of another, and what that kept stands in for a
        policy that is no good.
        """
        self.file = file.absolute()
        self.upstream = upstream
        self.reload_error: str | None = None
        self.reloaded_at = time.time()
        """When a policy was read last, whatever came of it, in epoch seconds."""
        self._changed, self._again_at = False, 0.0
        self.listening: Callable[[], list[str]] = list
        self.traffic: Callable[[], collect.Traffic] = lambda: collect.Traffic(0, 0)
        self.counts = Counts()
        self.stopping = False
        self._terminal, self._certificate = terminal, certificate
        before = _looked(self.file)
        self._keeps = not alone
        try:
            raw = None if resumes else policies.read(self.file)
            policy = policies.parse(raw, str(self.file)) if raw is not None else None  # before anything is made
            self.resources = Resources(StateDirectory(state).open(), share)
            self.signing = Signing(self.resources.keyring)
            self.files = self.resources.documents.files
            self.files.watch(self.file, before)
            self.active = self._load(policy, None) if policy is not None else self._resumed()
        except StateError as error:
            if state.is_dir():
                audit.policy(state, self.file, str(error))
            raise
        audit.policy(self.resources.state.path, self.file, self.reload_error)
        if raw is not None:
            self._keep(raw, self.active)
        self._reading = threading.Lock()
        self._unhealthy: Refuse | None = None
        self._store = DecisionStore(self.resources.state.path, self.active.built.policy.log.retain)
        self._storing = BackgroundWriter(str(self.resources.state.file(FILE)), self._store.write, self._store.close)
        settle(whole=True)
        self._tasks: list[asyncio.Task[None]] = []
        self._control: ControlSocket | None = None
        self._admin = AdminListener(self) if alone else None
        self._exposing = asyncio.Lock()

    def _load(self, policy: policies.Policy, before: ActivePolicy | None) -> ActivePolicy:
        admin = Settings.of(policy, self.file)
        built = build(policy, self.resources, self.upstream, time.time(), before is None, self.file)
        washing = _washing(policy)
        wanted = policy.log.decisions if self._terminal or policy.log.decisions != "stdout" else "off"
        same = before is not None and before.log.destination == wanted
        try:
            log = before.log if before is not None and same else DecisionLog(wanted, self.file.parent)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise StateError(f"{self.file}: log.decisions: {wanted!r} cannot be written ({why})") from error
        addresses = frozenset((upstream.host, upstream.port) for upstream in built.upstreams)
        keep = policy.forwarded_host == "keep"
        off = [step for step, mode in modes_of(built).items() if mode == "off"]
        encoding = Encoding(off, Masking.of(policy))
        return ActivePolicy(
            built,
            washing,
            log,
            encoding,
            keep,
            served(policy.issuer),
            Hosts(policy.hosts),
            Bounds.of(policy),
            addresses,
            admin,
            time.time(),
        )

    def _resumed(self) -> ActivePolicy:
        """What is in force by the file; else what was."""
        documents = self.resources.documents
        try:
            raw = policies.read(self.file)
            loaded = self._load(policies.parse(raw, str(self.file)), None)
            self._keep(raw, loaded)
        except Exception as error:
            found = kept(self.resources.state, self.file)
            if found is None:
                raise
            raw, documents.standing_in = found
            try:
                loaded = self._load(policies.parse(raw, str(self.file)), None)
            finally:
                documents.standing_in = None
            self.reload_error = self._told(error)
            self._again_at = time.monotonic() + AGAIN_S if _may_pass(error) else 0.0
            logger.error("the policy that was in force stays so: %s", self.reload_error)
        return loaded

    def _told(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"{self.file}: it was not read, with its documents, within {RELOAD_S:g} s"
        return str(error) if isinstance(error, StateError) else f"{self.file}: {type(error).__name__} while reading it"

    def _keep(self, raw: bytes, loaded: ActivePolicy) -> None:
        if self._keeps:
            parts = self.resources.documents.parts_of(loaded.documents)
            keep(self.resources.state, self.file, raw, parts)

    async def begin(self, listening: Callable[[], list[str]], answer: Answer | None) -> None:
        """Start what goes on beside the requests.

        `listening` tells the listener's addresses; `answer` answers commands, None where a supervisor does that.
        """
        self.listening = listening
        self._tasks = [
            asyncio.create_task(self._every(WATCH_S, self._tend), name="keyswap stores"),
            asyncio.create_task(self._every(WATCH_S, self._watch), name="keyswap watch"),
            asyncio.create_task(self._every(WATCH_S, self._follow_certificate), name="keyswap certificate"),
            asyncio.create_task(self._every(WATCH_S, self._follow_signing), name="keyswap signing keys"),
            asyncio.create_task(self._every(WATCH_S, self._follow), name="keyswap policy"),
            asyncio.create_task(self._every(URLS_S, self._ask_urls), name="keyswap documents"),
            asyncio.create_task(self._every(LAST_USED_S, self._keep_last_used), name="keyswap last used"),
        ]
        if not self._store.retain:
            self._storing.nudge()  # what an earlier policy kept
        if answer is not None:
            self._control = ControlSocket(self.resources.state.path, answer)
            await self._control.tend()
            if (found := self.misplaced) is not None:
                logger.warning("%s", found)
        await self._tend_admin()

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
        """Stop it, and keep what was gathered."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.signing.end()
        if self._control is not None:
            await self._control.close()
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
                found = act()
                if asyncio.iscoroutine(found):
                    await found
            except Exception:
                logger.exception("%s failed; it will be tried again", act.__name__)

    async def _keep_last_used(self) -> None:
        await asyncio.to_thread(self.resources.flush)

    def _tend(self) -> None:
        """Look after the stores. Nothing else is done by this task: what waits elsewhere lets no lease lapse."""
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
        if self._control is not None:
            await self._control.tend()
        await self._tend_admin()

    async def _follow_certificate(self) -> None:
        if self._certificate is not None:
            await aside(self._certificate.renew, self._certificate, RELOAD_S)

    async def _follow_signing(self) -> None:
        await self.signing.tend(time.monotonic())

    async def _ask_urls(self) -> None:
        """Look whether documents that came from URLs say something else by now."""
        if await aside(self.resources.documents.changed, self.resources.documents, RELOAD_S):
            self._changed = True

    async def _follow(self) -> None:
        """Reload when a file has changed, or could not be read a while ago."""
        if self._again_at and time.monotonic() >= self._again_at:
            self._changed, self._again_at = True, 0.0
        wanted = self._changed
        try:
            due = await aside(lambda: self.files.due(wanted), self._follow, RELOAD_S)
        except OSError as error:
            which = error.filename or self.file
            await self._failed(Unread(f"{which}: whether it has changed cannot be seen: the system does not answer"))
            return
        if due:
            self._changed = False
            await self.reload()

    async def reload(self) -> None:
        """Take the policy file's new content, or keep the old policy and say why."""
        before, attempt = self.active, _Attempt()
        try:
            raw, after, whole = await aside(lambda: self._read_anew(before, attempt), self._read_anew, RELOAD_S)
        except Exception as error:  # noqa: BLE001 (whatever it is, the old policy stays, and says so)
            attempt.given_up = True
            await self._failed(error)
            return
        if not whole:  # it may have been half written when it was read: soon it will be again
            self._changed = True
            if after.log is not before.log:
                after.log.finish()
            return
        await self._take(before, after, raw)

    def _read_anew(self, before: ActivePolicy, attempt: "_Attempt") -> tuple[bytes, ActivePolicy, bool]:
        """Read policy and documents, one attempt at a time, on a thread of its own; and whether no file changed."""
        with self._reading, _in_small_turns():
            raw = policies.read(self.file)
            after = self._load(policies.parse(raw, str(self.file)), before)
        if attempt.given_up and after.log is not before.log:
            after.log.finish()
        return raw, after, self.files.unchanged()

    async def _failed(self, error: Exception) -> None:
        """Keep the old policy, and say why. What may pass by itself is tried again, and told once."""
        known, self.reload_error = self.reload_error, self._told(error)
        self.reloaded_at = time.time()
        if _may_pass(error):
            self._again_at = time.monotonic() + AGAIN_S
            if self.reload_error == known:
                return
        self.counts.reloads_refused += 1
        logger.error("the old policy stays in force: %s", self.reload_error)
        with suppress(OSError):
            await self._written_down()

    async def _take(self, before: ActivePolicy, after: ActivePolicy, raw: bytes) -> None:
        """Put a policy in force."""
        self.reload_error, self._again_at = None, 0.0
        self.reloaded_at = time.time()
        self.counts.reloads_taken += 1
        self.active = after
        settle(self.counts.reloads_taken % WHOLE_EVERY == 0)
        if after.log is not before.log:
            before.log.finish()
        retain = after.built.policy.log.retain
        if self._store.retain != retain:
            self._store.retain = retain
            self._storing.nudge()
        self.files.only({self.file, *self.resources.documents.files_of(after.documents)})
        logger.warning("policy %s is in force", self.file)
        with suppress(OSError):
            await aside(lambda: self._keep(raw, after), self._keep)
            await self._written_down()

    async def _written_down(self) -> None:
        """Write down what came of a reload. Raises OSError."""
        told = self.reload_error
        await aside(lambda: audit.policy(self.resources.state.path, self.file, told), audit.policy)

    def record(self, line: Line) -> None:
        """Keep a decision, and count it: the only place where that is done.

        It is encoded once, and not at all for nobody.
        """
        self.counts.record(line)
        loaded = self.active
        log, text = loaded.log.lines, None
        if log is not None:
            text = loaded.encoding.line(line)
            log.write(text)
        if self._store.retain:
            self._storing.write((line, loaded.encoding.record(line, text)))

    async def snapshot(self) -> Snapshot:
        """Everything that this process has counted: a JSON value, gathered beside the requests."""
        return await asyncio.to_thread(collect.snapshot, self, self.traffic(), time.time())

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics of this process alone, one page at a time."""
        async with self._exposing:
            return await asyncio.to_thread(exposition, await self.snapshot(), accept)

    async def readiness(self) -> Mapping[str, str]:
        """Why it is not ready, by what is amiss; nothing: it is."""
        found = collect.readiness_problems(self.active.built, self.stopping, time.time())
        if self.reload_error is not None:
            found["policy"] = "the last reload was refused, the policy before it is in force: `keyswap status` says why"
        return found

    @property
    def key_store(self) -> KeyStoreRef:
        """What the admin listener manages."""
        return KeyStoreRef(self.resources.state.path, self.active.built.policy.api_keys.prefix)

    async def jwks(self) -> Mapping[str, object]:
        """The signing keys' set, for the admin listener."""
        await self.signing.current()
        found = self.active.built.key_set.jwks(time.time())
        return {"body": found.body.decode(), "etag": found.etag, "max_age_s": found.max_age_s}

    def is_upstream(self, host: str, port: int) -> bool:
        """Whether the policy in force sends requests to this address."""
        return (host, port) in self.active.addresses
