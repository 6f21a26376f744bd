"""mitmproxy's master and connections without what a gateway does not need, for `keyswap serve`.

Law: as in `patch_table`. Events of a connection are taken one after another, in the order in which they came, as
mitmproxy's lock would have it; a hook that need not wait is run where it stands, without a task. What an addon may do
is the same, and what it raises is reported without being quoted. Measured on 12.2.3.
"""

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from mitmproxy import log
from mitmproxy.addonmanager import AddonManager, traverse
from mitmproxy.addons import core, next_layer, proxyserver, tlsconfig
from mitmproxy.connection import Connection
from mitmproxy.exceptions import AddonHalt, OptionsError
from mitmproxy.hooks import Hook
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, mode_servers
from mitmproxy.proxy.commands import Log, SendData, StartHook
from mitmproxy.proxy.server import ConnectionIO

from keyswap.shell.mitm import connection_watch, teardown

Handler = Callable[[Any], Any]


class LeanAddons(AddonManager):
    """Addons whose handlers are looked up once, not at every event."""

    def __init__(self, master: Master, report: Callable[[Exception], None]) -> None:
        cast("Any", super()).__init__(master)
        self.report = report
        self._of: dict[type[Hook], tuple[str, tuple[Handler, ...]]] = {}

    def register(self, addon: Any) -> Any:
        """Register an addon; handlers are looked up anew."""
        self._of.clear()
        return cast("Any", super()).register(addon)

    def remove(self, addon: Any) -> None:
        """Remove an addon; handlers are looked up anew."""
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


class ShortQueue[T](list[T]):
    """A queue that is nearly always empty: a deque takes 700 bytes then, and a connection had ten of them."""

    def popleft(self) -> T:
        """Take the first."""
        return self.pop(0)


class LeanConnection(mode_servers.ProxyConnectionHandler):
    """A caller's connection, without a task or a lock for each event."""

    def __init__(self, *given: Any) -> None:
        cast("Any", super()).__init__(*given)
        self._waiting = ShortQueue[tuple[Any, asyncio.Future[None] | None]]()
        self._busy = False

    async def handle_client(self) -> None:
        """Serve a client, then take its connection apart."""
        await super().handle_client()
        watch = connection_watch.watch_of(self.client)
        if watch is not None:
            watch.layers_are_over()
        else:  # it was turned away
            asyncio.get_running_loop().call_soon(teardown.take_connection_apart, self)

    async def handle_connection(self, connection: Connection) -> None:
        """Serve a connection; its cancellation does not keep the frames alive that it went through."""
        try:
            await super().handle_connection(connection)
        except asyncio.CancelledError as error:
            raise error.with_traceback(None)  # noqa: B904 (it is the same error)

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
            _PENDING.add(waits)
            waits.add_done_callback(_PENDING.discard)

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


_PENDING: set[asyncio.Task[Any]] = set()
"""The event loop alone would forget them."""
