"""mitmproxy's master and connections without what a gateway does not need, for `keyswap serve`.

Law: as in `internals`. Events of a connection are taken one after another, in the order in which they came, as
mitmproxy's lock would have it; a hook that need not wait is run where it stands, without a task. What an addon may do
is the same, and what it raises is reported without being quoted. Measured on 12.2.3.
"""

import asyncio
import copy
import gc
import inspect
import logging
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

from mitmproxy import flow, http, log
from mitmproxy.addonmanager import AddonManager, traverse
from mitmproxy.addons import core, next_layer, proxyserver, tlsconfig
from mitmproxy.connection import Connection
from mitmproxy.exceptions import AddonHalt, OptionsError
from mitmproxy.hooks import Hook
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.optmanager import _Option, unset
from mitmproxy.proxy import commands, events, mode_servers
from mitmproxy.proxy.commands import Log, SendData, StartHook
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream
from mitmproxy.proxy.server import ConnectionIO

from keyswap.shell.mitm import connection_watch, internals
from keyswap.shell.mitm.hop_by_hop import wrap

Handler = Callable[[Any], Any]


class LeanAddons(AddonManager):
    """Addons whose handlers are looked up once, not at every event."""

    def __init__(self, master: Master, report: Callable[[Exception], None]) -> None:
        cast("Any", super()).__init__(master)
        self.report = report
        self._of: dict[type[Hook], tuple[str, tuple[Handler, ...]]] = {}

    def register(self, addon: Any) -> Any:
        """As it was, and the look-ups begin anew."""
        self._of.clear()
        return cast("Any", super()).register(addon)

    def remove(self, addon: Any) -> None:
        """As it was, and the look-ups begin anew."""
        cast("Any", super()).remove(addon)
        self._of.clear()

    def handlers(self, kind: type[Hook]) -> tuple[str, tuple[Handler, ...]]:
        """What a hook's only field is called, and who wants to see it."""
        handlers = self._of.get(kind)
        if handlers is None:
            named = [field.name for field in fields(cast("Any", kind))]
            wanted = (getattr(addon, kind.name, None) for addon in traverse(self.chain))
            handlers = named[0] if len(named) == 1 else "", tuple([func for func in wanted if callable(func)])
            self._of[kind] = handlers
        return handlers

    async def trigger_event(self, event: Hook) -> None:
        """Let every addon see an event."""
        for handler in self.handlers(type(event))[1]:
            try:
                result = handler(*event.args())
                if inspect.isawaitable(result):
                    await result
            except AddonHalt:
                return
            except OptionsError:
                raise
            except Exception as error:  # noqa: BLE001 (as mitmproxy does; its message may quote a caller)
                self.report(error)


class _Tls(tlsconfig.TlsConfig):
    """TLS without a list of revoked certificates, which mitmproxy answers whatever the gate has said."""

    name = "tlsconfig"
    request = None  # type: ignore[assignment]


class LeanMaster(Master):
    """A master with the addons that carry requests and no others; what it logs, whoever runs it has to say."""

    def __init__(self, options: Options, report: Callable[[Exception], None]) -> None:
        super().__init__(options)
        self.addons = addons = cast("Any", LeanAddons(self, report))
        addons.add(core.Core(), proxyserver.Proxyserver(), next_layer.NextLayer(), _Tls())
        self._legacy_log_events.uninstall()  # nobody here has an `add_log`
        self._legacy_log_events = log.LegacyLogEvents(self)


class Few[T](list[T]):
    """A queue that is nearly always empty: a deque takes 700 bytes then, and a connection had ten of them."""

    def popleft(self) -> T:
        """Take the first."""
        return self.pop(0)


class LeanConnection(mode_servers.ProxyConnectionHandler):
    """A caller's connection, without a task or a lock for each event."""

    def __init__(self, *given: Any) -> None:
        cast("Any", super()).__init__(*given)
        self._waiting = Few[tuple[Any, asyncio.Future[None] | None]]()
        self._busy = False

    async def handle_client(self) -> None:
        """As it is, and then it is taken apart."""
        await super().handle_client()
        by = connection_watch.watch_of(self.client)
        if by is not None:
            by.layers_are_over()
        else:  # it was turned away
            asyncio.get_running_loop().call_soon(internals.take_connection_apart, self)

    async def handle_connection(self, connection: Connection) -> None:
        """As it is, but that its cancellation does not keep the frames alive that it went through."""
        try:
            await super().handle_connection(connection)
        except asyncio.CancelledError as error:
            raise error.with_traceback(None)  # noqa: B904 (it is the same one)

    async def server_event(self, event: Any) -> None:
        """Let the layers take an event, when they have taken those before it."""
        if self._busy:
            taken = asyncio.get_running_loop().create_future()
            self._waiting.append((event, taken))
            await taken
            return
        self._busy = True
        try:
            self._take(event)
            while self._waiting:
                event, turn = self._waiting.popleft()
                if turn is None:
                    self._take(event)
                elif not turn.done():
                    self._take(event)
                    if not turn.done():
                        turn.set_result(None)
        finally:
            self._busy = False

    def _take(self, event: Any) -> None:
        try:
            for command in self.layer.handle_event(event):
                if isinstance(command, SendData):
                    transport = self.transports.get(command.connection)
                    writer = cast("Any", transport.writer) if transport is not None else None
                    if writer is not None and not writer.is_closing():
                        writer.write(command.data)
                elif isinstance(command, StartHook):
                    self._hook(command)
                elif not isinstance(command, Log):
                    self._act(command)
        except Exception:  # noqa: BLE001 (as mitmproxy does: the connection ends)
            self.log("", logging.ERROR, exc_info=True)

    def _act(self, command: Any) -> None:
        """What happens to a connection as a whole."""
        if isinstance(command, commands.OpenConnection):
            task = asyncio.get_running_loop().create_task(self.open_connection(command))
            if command.connection.error is None:  # else it has failed already, and was forgotten
                self.transports[command.connection] = ConnectionIO(handler=task)
        elif isinstance(command, commands.RequestWakeup):
            self.wakeup_timer.add(asyncio.get_running_loop().create_task(self.wakeup(command)))
        elif not isinstance(command, commands.CloseConnection):
            raise TypeError(f"an unknown command: {type(command).__name__}")
        elif command.connection in self.transports:
            half = isinstance(command, commands.CloseTcpConnection) and command.half_close
            self.close_connection(command.connection, half)

    # ---- Hooks

    def _hook(self, hook: StartHook) -> None:
        """Let the addons see it; what they wait for, the stream waits for, and nothing else does."""
        addons = cast("LeanAddons", self.master.addons)
        name, handlers = addons.handlers(type(hook))
        data = getattr(hook, name)
        for number, handler in enumerate(handlers):
            try:
                result = handler(data)
            except Exception as error:  # noqa: BLE001 (as mitmproxy does)
                addons.report(error)
                continue
            if result is not None and inspect.iscoroutine(result):
                task = asyncio.Task(result, loop=asyncio.get_running_loop(), eager_start=True)
                if not task.done() or task.cancelled() or task.exception() is not None:
                    self._later(hook, task, handlers[number + 1 :], data)
                    return
        if hook.blocking:
            self._waiting.append((events.HookCompleted(hook), None))

    def _later(self, hook: StartHook, task: asyncio.Task[Any], rest: tuple[Handler, ...], data: Any) -> None:
        waits = asyncio.get_running_loop().create_task(self._finish(hook, task, rest, data))
        if not waits.done():
            _KEPT.add(waits)
            waits.add_done_callback(_KEPT.discard)

    async def _finish(self, hook: StartHook, task: asyncio.Task[Any], rest: tuple[Handler, ...], data: Any) -> None:
        addons = cast("LeanAddons", self.master.addons)
        works: list[Any] = [task, *rest]
        for work in works:
            try:
                result = work if work is task else work(data)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:  # noqa: BLE001 (as mitmproxy does)
                addons.report(error)
        if hook.blocking:
            await self.server_event(events.HookCompleted(hook))

    async def handle_hook(self, hook: StartHook) -> None:
        """The hooks of connections, which are waited for where they stand."""
        await self.master.addons.trigger_event(hook)


_KEPT: set[asyncio.Task[Any]] = set()
"""The event loop alone would forget them."""


def install_fast_paths() -> None:
    """Take work away from each request that nobody needs; doing it again changes nothing.

    Connections are LeanConnection; a stream's context is made without a server that is thrown away at once; messages
    are not looked through for fields of another type; options that nobody can change in place are not copied, and
    flows are numbered, which took 15 µs a request; a header is looked for in one pass, without an exception where
    it is missing; a stream or connection that has ended is freed at once, not when the garbage collector comes by,
    which looks through what is young and leaves the rest to `Guard.tidy`: with 3,000 connections it took 300 ms.
    """
    gc.set_threshold(*gc.get_threshold()[:2], 1 << 30)
    mode_servers.ProxyConnectionHandler = LeanConnection  # type: ignore[misc]
    Context.fork = _fork  # type: ignore[method-assign]
    _Option.current = _current  # type: ignore[method-assign]
    flow.uuid = SimpleNamespace(uuid4=partial(next, count()))  # type: ignore[assignment, attr-defined]
    message: Any = http.MessageData
    message.__post_init__ = _as_it_is
    headers: Any = http.Headers
    headers.get_all, headers.get, headers.__contains__ = _get_all, _get, _contains
    wrap(HttpLayer, "__init__", _with_streams)
    wrap(Layer, "__init__", _with_few_events)


def _with_few_events(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    self._paused_event_queue = Few()


def _with_streams(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    self.streams = _Streams()


class _Streams(dict[int, HttpStream]):
    """The streams of a connection. mitmproxy drops one by `pop` when it has ended, or all but its last event."""

    def pop(self, stream_id: int, default: Any = None) -> Any:
        """As it is, and what was found is let go when the event is over in which it ends."""
        stream = super().pop(stream_id, default)
        if stream is not None:
            asyncio.get_running_loop().call_soon(_let_go, stream)
        return stream


def _let_go(stream: Any) -> None:
    """Undo the circles that an ended stream and its flow stand in: the collector took 180 µs for each 14 requests."""
    if stream._paused is None:
        stream.keyswap_over = True
        stream.client_state = stream.server_state = _over
        stream.context.layers = []
        if hasattr(stream, "flow"):
            internals.attach_exchange(stream.flow, None)


def _over(_event: events.Event) -> tuple[()]:
    return ()


def _fork(self: Context) -> Context:
    forked = Context.__new__(Context)
    forked.client, forked.options, forked.server = self.client, self.options, self.server
    forked.layers = self.layers.copy()
    return forked


def _current(self: _Option) -> Any:
    value = self._default if self.value is unset else self.value
    return value if type(value) in _PLAIN else copy.deepcopy(value)


_PLAIN = {str, int, float, bool, type(None)}


def _as_it_is(_self: object) -> None:
    return None


def _get_all(self: http.Headers, name: str | bytes) -> list[str]:
    wanted = (name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")).lower()
    size = len(wanted)
    return [
        value.decode("utf-8", "surrogateescape")
        for known, value in self.fields
        if len(known) == size and known.lower() == wanted
    ]


def _get(self: http.Headers, name: str | bytes, default: Any = None) -> Any:
    values = _get_all(self, name)
    return ", ".join(values) if values else default


def _contains(self: http.Headers, name: object) -> bool:
    return isinstance(name, str | bytes) and bool(_get_all(self, name))
