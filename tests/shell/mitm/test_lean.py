"""What lean.py counts on in mitmproxy, and that its lean parts do what mitmproxy's own do."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import connection, http
from mitmproxy.exceptions import AddonHalt
from mitmproxy.hooks import Hook
from mitmproxy.master import Master
from mitmproxy.net.http.http1 import read_request_head
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, mode_servers, mode_specs
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import CommandGenerator, Layer
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHook
from mitmproxy.proxy.server_hooks import ClientConnectedHook
from mitmproxy.test import tflow

from keyswap.shell.mitm import fast_paths, lean, patch_table

THEIRS: dict[str, Any] = {name: getattr(http.Headers, name) for name in ("get_all", "get", "__contains__")}


def in_master(test: Callable[[Any, list[Exception]], Awaitable[None]]) -> list[Exception]:
    """Run a test with a lean master; what was reported."""
    reported: list[Exception] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        master = lean.LeanMaster(Options(), reported.append)
        try:
            await test(master, reported)
        finally:
            await master.done()

    asyncio.run(run())
    return reported


class Recorder:
    """An addon that writes down what it sees."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def request(self, flow: http.HTTPFlow) -> None:
        self.seen.append(f"{self.name} request")

    async def response(self, flow: http.HTTPFlow) -> None:
        self.seen.append(f"{self.name} response")


def test_events_reach_every_addon_in_order() -> None:
    """Sync and async handlers are called in the order of the addons, also of one that was added later."""
    seen: list[str] = []

    async def run(master: Any, _reported: list[Exception]) -> None:
        master.addons.add(Recorder("first", seen))
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
        second = Recorder("second", seen)
        master.addons.add(second)
        await master.addons.trigger_event(HttpResponseHook(tflow.tflow()))
        master.addons.remove(second)
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))

    in_master(run)
    assert seen == ["first request", "first response", "second response", "first request"]


def test_an_addons_exception_is_reported_and_stops_nobody() -> None:
    """As mitmproxy does it: the next addon is asked; AddonHalt alone ends the round."""
    seen: list[str] = []

    class Broken(Recorder):
        def request(self, flow: http.HTTPFlow) -> None:
            raise ValueError("secret")

    class Halting(Recorder):
        def request(self, flow: http.HTTPFlow) -> None:
            raise AddonHalt

    async def run(master: Any, reported: list[Exception]) -> None:
        master.addons.add(
            Broken("broken", seen), Recorder("after", seen), Halting("halts", seen), Recorder("never", seen)
        )
        await master.addons.trigger_event(HttpRequestHook(tflow.tflow()))
        assert [type(one) for one in reported] == [ValueError]

    in_master(run)
    assert seen == ["after request"]


def test_a_stop_runs_every_addons_end() -> None:
    """`done` has no field; it reaches the addons all the same."""
    seen: list[str] = []

    class Ending:
        def done(self) -> None:
            seen.append("done")

    async def run(master: Any, _reported: list[Exception]) -> None:
        master.addons.add(Ending())

    in_master(run)
    assert seen == ["done"]


@pytest.mark.parametrize("kind", [HttpRequestHook, HttpResponseHook, ClientConnectedHook])
def test_hooks_of_connections_have_one_field(kind: type[Hook]) -> None:
    """A hook's only field is what its handlers are given, and a flow's hook blocks its stream."""
    assert list(inspect.signature(kind).parameters) == list(kind.__dataclass_fields__)[:1]  # type: ignore[attr-defined]
    assert issubclass(kind, commands.StartHook)


# ---- A connection


class Scripted(Layer):
    """A layer that yields what a test says, and writes down what it was given."""

    def __init__(self, context: Context, script: dict[type, list[Any]]) -> None:
        super().__init__(context)
        self.script, self.took = script, list[str]()

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        self.took.append(type(event).__name__)
        for command in self.script.pop(type(event), []):
            yield command
            self.took.append(f"after {type(command).__name__}")


class Writer:
    """Enough of a stream writer."""

    def __init__(self) -> None:
        self.written = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 4), "sockname": ("127.0.0.1", 5)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data


def connected(master: Any, script: dict[type, list[Any]]) -> tuple[Any, Scripted, Writer]:
    writer = Writer()
    handler = lean.LeanConnection(
        master, None, writer, master.options, mode_specs.ProxyMode.parse("reverse:http://x:1")
    )
    handler.layer = layer = Scripted(Context(handler.client, master.options), script)
    return handler, layer, writer


def test_a_hook_that_need_not_wait_runs_where_it_stands() -> None:
    """Its handlers have run before the layer goes on, and its completion comes after the event that asked for it."""
    seen: list[str] = []

    async def run(master: Any, _reported: list[Exception]) -> None:
        master.addons.add(Recorder("gate", seen))
        handler, layer, _ = connected(
            master, {events.Start: [HttpRequestHook(tflow.tflow()), HttpResponseHook(tflow.tflow())]}
        )
        await handler.server_event(events.Start())
        assert seen == ["gate request", "gate response"]
        assert layer.took[:1] == ["Start"]

    in_master(run)


def test_a_hook_that_waits_holds_its_layer_and_nothing_else() -> None:
    """What comes meanwhile waits in the layer, in order; the others of the loop go on."""

    async def run(master: Any, _reported: list[Exception]) -> None:
        go_on = asyncio.Event()

        class Waiting:
            async def request(self, flow: http.HTTPFlow) -> None:
                await go_on.wait()

        master.addons.add(Waiting())
        handler, layer, _ = connected(master, {events.Start: [HttpRequestHook(tflow.tflow())]})
        await handler.server_event(events.Start())
        await handler.server_event(events.DataReceived(handler.client, b"x"))
        assert layer.took == ["Start"], "it is paused"
        go_on.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert layer.took == ["Start", "after HttpRequestHook", "DataReceived"]

    in_master(run)


def test_an_exception_in_a_waiting_hook_does_not_hang_its_stream() -> None:
    """It is reported, and the stream goes on to what it was told: the gate's own hooks refuse before that."""

    async def run(master: Any, _reported: list[Exception]) -> None:
        class Broken:
            async def request(self, flow: http.HTTPFlow) -> None:
                await asyncio.sleep(0)
                raise ValueError

        master.addons.add(Broken())
        handler, layer, _ = connected(master, {events.Start: [HttpRequestHook(tflow.tflow())]})
        await handler.server_event(events.Start())
        for _ in range(6):
            await asyncio.sleep(0)
        assert layer.took == ["Start", "after HttpRequestHook"]

    assert [type(one) for one in in_master(run)] == [ValueError]


def test_events_that_come_while_one_is_taken_wait_their_turn() -> None:
    """A handler that lets an event come sees it taken after the one it was called in, and is told when it was."""
    order: list[str] = []

    async def run(master: Any, _reported: list[Exception]) -> None:
        handler, layer, _ = connected(master, {events.Start: [HttpRequestHook(tflow.tflow())]})

        class Meddling:
            def request(self, flow: http.HTTPFlow) -> None:
                async def more() -> None:
                    await handler.server_event(events.DataReceived(handler.client, b"x"))
                    order.extend(layer.took)

                self.task = asyncio.get_running_loop().create_task(more())
                assert "DataReceived" not in layer.took

        master.addons.add(Meddling())
        await handler.server_event(events.Start())
        await asyncio.sleep(0)
        assert order[0] == "Start" and "DataReceived" in order

    in_master(run)


def test_a_layer_that_crashes_ends_its_connection() -> None:
    """As mitmproxy does it: the exception goes to the connection's log."""
    logged: list[Any] = []

    async def run(master: Any, _reported: list[Exception]) -> None:
        handler, layer, _ = connected(master, {})

        def crash(_event: Any) -> CommandGenerator[None]:
            raise ValueError
            yield

        layer.handle_event = crash  # type: ignore[assignment]
        handler.log = lambda *given, **more: logged.append(more)
        await handler.server_event(events.Start())

    in_master(run)
    assert len(logged) == 1 and "exc_info" in logged[0]


def test_data_is_written_where_a_connection_stands() -> None:
    """And dropped where it is gone."""

    async def run(master: Any, _reported: list[Exception]) -> None:
        handler, layer, writer = connected(master, {})
        gone = connection.Server(address=("x", 1))
        layer.script[events.Start] = [commands.SendData(handler.client, b"here"), commands.SendData(gone, b"there")]
        await handler.server_event(events.Start())
        assert writer.written == b"here"

    in_master(run)


def test_a_peer_that_vanishes_at_once_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection upstream that is reset before it has an address fails like one that could not be made."""
    aborted: list[bool] = []

    class Vanished(Writer):
        transport = SimpleNamespace(abort=lambda: aborted.append(True))

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return None

    async def opened(*_given: Any, **_more: Any) -> tuple[None, Vanished]:
        return None, Vanished()

    async def run(master: Any, _reported: list[Exception]) -> None:
        handler, layer, _ = connected(master, {})
        upstream = connection.Server(address=("127.0.0.1", 9))
        layer.script[events.Start] = [commands.OpenConnection(upstream)]
        monkeypatch.setattr(asyncio, "open_connection", opened)
        await handler.server_event(events.Start())
        for _ in range(5):
            await asyncio.sleep(0)
        assert "OpenConnectionCompleted" in layer.took or "after OpenConnection" in layer.took
        assert aborted and upstream not in handler.transports and not upstream.connected

    patch_table.install({}, shows=True)
    in_master(run)


# ---- What is left out


def test_options_are_what_they_were() -> None:
    """An option is its value, its default where it has none, and nobody can change one in place."""
    fast_paths.install_fast_paths()
    options = Options()
    assert options.tcp_timeout == options._options["tcp_timeout"].default
    options.update(mode=["regular"], tcp_timeout=7)
    options.mode.append("changed")
    assert (options.mode, options.tcp_timeout) == (["regular"], 7)


def test_flows_are_told_apart() -> None:
    """No two flows of a process have one name, and a name is a text."""
    fast_paths.install_fast_paths()
    names = [tflow.tflow().id for _ in range(3)]
    assert len(set(names)) == 3 and all(isinstance(name, str) for name in names)


def test_a_forked_context_is_what_mitmproxy_makes() -> None:
    """It has the same fields, with the same values, and its own list of layers."""

    async def run(master: Any, _reported: list[Exception]) -> None:
        client = connection.Client(peername=("a", 1), sockname=("b", 2))
        whole = Context(client, master.options)
        theirs = Context.__dict__["fork"](whole)
        ours = fast_paths._fork(whole)
        assert vars(ours) == vars(theirs) and ours.layers is not whole.layers and ours.server is whole.server

    in_master(run)


def test_what_messages_are_checked_for_is_only_their_types() -> None:
    """Leaving it out changes no message that was parsed: mitmproxy's own parser gives every field its type."""
    request = read_request_head([b"GET / HTTP/1.1", b"Host: x"])
    before = dict(vars(request.data))
    http.MessageData.__dict__["__post_init__"](request.data)
    assert vars(request.data) == before


def test_the_listener_and_the_connections_are_where_they_are_replaced() -> None:
    """mitmproxy looks both up by these names, and a connection has the parts that the lean one uses."""
    source = inspect.getsource(mode_servers.ServerInstance.handle_stream)
    assert "ProxyConnectionHandler(\n" in source
    assert list(inspect.signature(mode_servers.AsyncioServerInstance.listen).parameters) == ["self", "host", "port"]
    assert "self._servers = await self.listen(host, port)" in inspect.getsource(
        mode_servers.AsyncioServerInstance._start
    )
    for name in ("server_event", "handle_hook", "open_connection", "wakeup", "close_connection", "log"):
        assert callable(getattr(mode_servers.ProxyConnectionHandler, name)), name
    assert 'self.addons.get("proxyserver")' in inspect.getsource(Master.run)


def test_the_commands_of_a_layer_are_those_that_are_known() -> None:
    """A new kind of command would end connections: this fails when mitmproxy gets one."""
    known = {
        "Command", "RequestWakeup", "ConnectionCommand", "SendData", "OpenConnection", "CloseConnection",
        "CloseTcpConnection", "StartHook", "Log",
    }  # fmt: skip
    found = {name for name, one in vars(commands).items() if inspect.isclass(one) and issubclass(one, commands.Command)}
    assert found == known


NAMES = st.sampled_from(
    ["Host", "host", "Content-Length", "content-length", "X-A", "x-a", "x_a", "Transfer-Encoding", ""]
)
FIELDS = st.lists(st.tuples(NAMES.map(str.encode), st.binary(max_size=8)), max_size=8)


@given(FIELDS, st.one_of(NAMES, NAMES.map(str.encode)))
def test_headers_are_found_as_mitmproxy_finds_them(fields: list[tuple[bytes, bytes]], name: str | bytes) -> None:
    """All values, the folded one, the default and whether there is any: the same for whatever fields and name."""
    headers = http.Headers(fields)
    theirs = THEIRS["get_all"](headers, name)
    assert fast_paths._get_all(headers, name) == theirs
    assert fast_paths._get(headers, name, "none") == THEIRS["get"](headers, name, "none")
    assert fast_paths._contains(headers, name) == THEIRS["__contains__"](headers, name) == bool(theirs)
