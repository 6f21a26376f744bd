"""The guard over all connections: it counts them exactly, and its looking after them holds up nobody."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import Client, Server
from mitmproxy.options import Options
from mitmproxy.proxy import events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http

from keyswap.model import ANONYMOUS, UNCOUNTED, Admit, Code, Counted, Refuse, Upstream
from keyswap.refusals import answer
from keyswap.shell.connections import guard as guards
from keyswap.shell.connections.client import ClientConnection
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.connections.upstream import UpstreamConnection
from keyswap.shell.decisions.record import Line
from keyswap.shell.proxy.hooks import ConnectionAddon
from keyswap.shell.runtime.connection_limits import ConnectionLimits

LIMITS = ConnectionLimits(10, 5, 60, 300, 65536, None, 500)


class Transport:
    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        pass


class Site:
    """A guard over connections without sockets."""

    def __init__(self, judge: Callable[[Any], Refuse | None] | None = None) -> None:
        self.reported: list[Exception] = []
        self.connections: dict[str, Any] = {}
        proxyserver = SimpleNamespace(connections=self.connections)
        master: Any = SimpleNamespace(addons=SimpleNamespace(get=lambda _name: proxyserver))
        listener: Any = SimpleNamespace(
            limits=lambda: LIMITS, revoked_since=lambda: judge, report=self.reported.append, shows=False
        )
        listener.answer = lambda _flow, refused: answer(refused, "")
        self.guard = ConnectionGuard(master, listener)

    def client(self, peer: Any = ("192.0.2.1", 4000), is_known: bool = True) -> Client:
        client = Client(peername=peer, sockname=("127.0.0.1", 1), timestamp_start=0.0)
        if is_known:
            writer = SimpleNamespace(close=lambda: None, transport=Transport())
            transport = SimpleNamespace(reader=asyncio.StreamReader(), writer=writer)
            layers = SimpleNamespace(context=SimpleNamespace(layers=[]))
            self.connections[client.id] = SimpleNamespace(transports={client: transport}, layer=layers)
        return client

    def layered(self, client: Client) -> tuple[asyncio.StreamReader, http.HttpLayer]:
        """Let this client's connection, which is watched from now on, speak HTTP/1."""
        handler = self.connections[client.id]
        reader = handler.transports[client].reader
        options = Options()
        Proxyserver().load(Loader(SimpleNamespace(options=options, commands=SimpleNamespace(collect_commands=bool))))
        layer = http.HttpLayer(Context(client, options), http.HTTPMode.transparent)
        list(layer.handle_event(events.Start()))
        handler.layer.context.layers.append(layer)

        async def server_event(event: events.Event) -> None:
            list(layer.handle_event(event))

        handler.server_event = server_event
        self.guard.connected(client)
        return reader, layer

    def watch(self, one: Any) -> None:
        self.guard.connections[str(len(self.guard.connections))] = one


async def turns(work: Any) -> tuple[int, float]:
    """How many turns another task gets while this goes on, and the longest that it waits for one."""
    task = asyncio.ensure_future(work)
    count, worst, before = 0, 0.0, time.thread_time()
    while not task.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        count, worst, before = count + 1, max(worst, now - before), now
    await task
    return count, worst


@pytest.mark.parametrize("peer", [None, ()])
def test_a_caller_that_has_gone_is_turned_away(peer: Any) -> None:
    """A connection whose peer the system does not know any more is closed; it is no fault of ours, and counts nowhere."""

    async def run() -> None:
        site = Site()
        client = site.client()
        client.peername = peer
        site.guard.connected(client)
        assert client.error and not site.guard.connections and not site.guard._addresses and not site.reported

    asyncio.run(run())


def test_what_cannot_be_watched_is_not_counted() -> None:
    """However often watching fails, an address keeps all of its connections; one that ends twice is given back once."""

    async def run() -> None:
        site = Site()
        for _ in range(3):
            with pytest.raises(KeyError):
                site.guard.connected(site.client(is_known=False))
        assert not site.guard._addresses and not site.guard.connections
        first, second = site.client(), site.client()
        for client in (first, second):
            site.guard.connected(client)
        watched = site.guard.of(first)
        assert watched is not None and site.guard._addresses == {"192.0.2.1": 2}
        for _ in range(2):
            site.guard.forget(watched)
        assert site.guard._addresses == {"192.0.2.1": 1}

    asyncio.run(run())


def test_addresses_of_a_network_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections from one IPv6 /64 share what one address may have."""
    monkeypatch.setattr(guards, "most_per_address", lambda: 2)

    async def run() -> None:
        site = Site()
        clients = [site.client((f"2001:db8::{number}", 1, 0, 0)) for number in range(3)]
        for client in clients:
            site.guard.connected(client)
        assert [bool(client.error) for client in clients] == [False, False, True]

    asyncio.run(run())


def test_a_head_is_as_old_as_its_first_bytes() -> None:
    """What has come of a head that has not ended is held since it began to come, not since the connection stands."""

    async def run() -> None:
        site = Site()
        client = site.client()
        reader, layer = site.layered(client)
        watched = site.guard.of(client)
        assert watched is not None
        before, found = time.time(), []
        for _ in range(3):
            reader.feed_data(b"GET")
            list(layer.handle_event(events.DataReceived(client, await watched.read(1 << 16))))
            found += watched.pieces()
        assert [(piece.size, piece.begun, piece.holder) for piece in found] == [(n, False, watched) for n in (3, 6, 9)]
        assert found[0].since >= before and {piece.since for piece in found} == {found[0].since}

    asyncio.run(run())


def test_what_was_sent_behind_a_request_goes_with_it() -> None:
    """A request that is ended because too much is held leaves nothing of what came behind it, however long its caller
    takes to hear of that."""

    async def run() -> None:
        site = Site()
        client = site.client()
        reader, layer = site.layered(client)
        layer.context.server.address = ("127.0.0.1", 3)
        watched = site.guard.of(client)
        assert watched is not None
        reader.feed_data(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + b"x" * 5000)
        list(layer.handle_event(events.DataReceived(client, await watched.read(1 << 16))))
        (piece,) = watched.pieces()
        assert piece.begun and piece.size > 5000
        piece.end()
        server: Any = layer.connections[client]
        assert len(server.buf) == 0 and watched.pieces() == []

    asyncio.run(run())


class Busy:
    """A connection whose sweep takes 20 µs."""

    address, excess = "", 0

    def __init__(self, exchanges: int = 0) -> None:
        self.ended: list[Any] = []
        opened: list[Any] = [SimpleNamespace(flow=object()) for _ in range(exchanges)]
        self.open = {id(one.flow): one for one in opened}

    def rests(self, now: float, limits: ConnectionLimits) -> bool:
        return False

    def sweep(self, now: float, limits: ConnectionLimits, elapsed_s: float) -> None:
        until = time.perf_counter() + 20e-6
        while time.perf_counter() < until:
            pass

    def end(self, exchange: Any, refused: Refuse) -> None:
        self.ended.append(exchange)


def test_a_sweep_lets_others_have_their_turn() -> None:
    """A sweep over 5,000 busy connections, a tenth of a second, is cut into slices of some milliseconds."""

    async def run() -> None:
        site = Site()
        for _ in range(5000):
            site.watch(Busy())
        count, worst = await turns(site.guard.sweep(0.25))
        assert count > 20 and worst < 0.03

    asyncio.run(run())


def test_judging_again_lets_others_have_their_turn() -> None:
    """After a key has changed 2,000 open requests of one connection are judged again, in slices, each of them once."""
    judged: list[Any] = []
    refused = Refuse(Code.INVALID_CREDENTIAL, "revoked")

    def judge(exchange: Any) -> Refuse | None:
        until = time.perf_counter() + 40e-6
        while time.perf_counter() < until:
            pass
        judged.append(exchange)
        return refused if len(judged) % 2 else None

    async def run() -> None:
        site = Site(judge)
        one = Busy(2000)
        site.watch(one)
        count, worst = await turns(site.guard.sweep(0.25))
        assert len(judged) == 2000 and len(one.ended) == 1000
        assert count > 20 and worst < 0.03

    asyncio.run(run())


def test_a_request_that_ends_meanwhile_is_not_judged() -> None:
    """What ended while others had their turn is not ended once more."""
    one = Busy(2)
    judged: list[Any] = []

    def judge(exchange: Any) -> Refuse | None:
        judged.append(exchange)
        one.open.clear()
        return None

    async def run() -> None:
        site = Site(judge)
        site.watch(one)
        await site.guard.sweep(0.25)
        assert len(judged) == 1

    asyncio.run(run())


def test_one_connections_trouble_ends_no_sweep() -> None:
    """A connection that cannot be looked at, for whatever bug, is closed; those behind it are looked at."""
    error, aborted, swept = ValueError(), list[int](), list[int]()

    def fails(*_: object) -> bool:
        raise error

    async def run() -> None:
        site = Site()
        site.watch(SimpleNamespace(rests=fails, abort=lambda: aborted.append(1), excess=0, open={}))
        site.watch(SimpleNamespace(rests=lambda *_: False, sweep=lambda *_: swept.append(1), excess=0, open={}))
        await site.guard.sweep(0.25)
        assert (site.reported, aborted, swept) == ([error], [1], [1])

    asyncio.run(run())


def test_a_connection_at_rest_is_left_alone_until_something_is_due() -> None:
    """What has been looked at and rests is skipped, until it moves, its deadline comes, or the limits change."""

    async def run() -> None:
        site = Site()
        client = site.client()
        site.guard.connected(client)
        watched = site.guard.of(client)
        assert isinstance(watched, ClientConnection)
        reading = asyncio.ensure_future(watched.read(65536))
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        assert not watched.rests(now, LIMITS)
        watched.sweep(now, LIMITS, 0.25)
        assert watched.rests(now + 9, LIMITS) and not watched.rests(now + 11, LIMITS)  # a head is due in ten seconds
        assert not watched.rests(now, ConnectionLimits(1, 5, 60, 300, 65536, None, 500))
        watched.wake()
        assert not watched.rests(now, LIMITS)
        watched.sweep(now, LIMITS, 0.25)
        watched.reader.feed_data(b"G")
        assert await reading == b"G" and not watched.rests(now, LIMITS)

    asyncio.run(run())


def test_an_earlier_policys_upstream_is_one_until_its_last_request_ends() -> None:
    """A connection to an address that the policy in force does not name may be made for an open request that was
    admitted to it, for as long as that is open, and by nobody else."""
    addon: Any = SimpleNamespace(_runtime=SimpleNamespace(is_upstream=lambda _host, port: port == 9001))
    operation: Any = SimpleNamespace(upstream=Upstream("http", "127.0.0.1", 9000))
    nothing: Any = None
    line: Any = SimpleNamespace(decision=Admit(nothing, None, None, operation))
    watched: Any = SimpleNamespace(open={"one": Exchange(nothing, ANONYMOUS, line, nothing, nothing, False)})

    def is_upstream(port: int, of: Any = watched) -> bool:
        return ConnectionAddon._is_upstream(addon, "127.0.0.1", port, of)

    assert is_upstream(9000) and is_upstream(9001) and not is_upstream(9002)
    assert not is_upstream(9000, SimpleNamespace(open={})) and not is_upstream(9000, None)
    watched.open.clear()
    assert is_upstream(9001) and not is_upstream(9000)


def test_what_is_owed_is_settled_once() -> None:
    """Whoever stops waiting first, the guard that ends or who waits for the answer, gives the places back and closes."""

    async def run() -> None:
        happened: list[str] = []
        watched: Any = SimpleNamespace(owing=set(), owed=set(), part=lambda: happened.append("part"))
        tasks: list[Any] = []
        watched.spawn = lambda work: tasks.append(asyncio.ensure_future(work))
        upstream: Any = UpstreamConnection(watched, Server(address=("127.0.0.1", 1)))
        upstream.writer, upstream._reader = SimpleNamespace(transport=Transport()), asyncio.StreamReader()
        upstream._close = lambda: happened.append("close")
        upstream._held = UNCOUNTED._replace(give_back=lambda: happened.append("give back"))
        upstream._awaited, upstream._until = SimpleNamespace(has_begun=False), asyncio.get_running_loop().time() + 60
        upstream.close()
        await asyncio.sleep(0)
        assert watched.owing == {upstream} and not happened
        upstream.settle()
        upstream._reader.feed_eof()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert not watched.owing and not watched.owed and happened == ["give back", "close", "part"]

    asyncio.run(run())


def exchange(record: Any, counted: Counted) -> Exchange:
    """One that is open; `record` writes its line."""
    flow: Any = SimpleNamespace(server_conn=SimpleNamespace(id=""))
    line = Line(0.0, "", Refuse(Code.INVALID_REQUEST, ""), None, "GET", b"/", "", 0.0)
    nothing: Any = None
    return Exchange(flow, ANONYMOUS, line, nothing, record, False, counted)


def _fails(*_: object) -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("what", ["let_go", "abort", "close", "wake", "left", "give_back"])
@pytest.mark.parametrize("way", ["at once", "by lingering", "with its layers"])
def test_a_connection_is_forgotten_whatever_fails(what: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry and its share of its address go, it comes apart, and its requests are in flight no longer."""

    async def run() -> None:
        site, parted = Site(), list[int]()
        monkeypatch.setattr(ClientConnection, "part", lambda _self: parted.append(1))
        client = site.client()
        site.guard.connected(client)
        watched: Any = site.guard.of(client)
        given_back: list[int] = []
        for number in range(3):
            give_back = partial(given_back.append, number)
            fails = what == "give_back" and number == 1
            counted = UNCOUNTED._replace(give_back=_fails if fails else give_back)
            watched.open[number] = exchange(_fails if what == "left" else lambda *_: None, counted)
        watched.writer.write_eof = lambda: None
        watched.known_layer = SimpleNamespace(connections={}, context=SimpleNamespace(client=client))
        monkeypatch.setattr(Transport, "get_write_buffer_size", lambda _self: 1)
        if what == "let_go":
            watched.known_layer = SimpleNamespace()
        elif what == "abort":
            monkeypatch.setattr(Transport, "abort", _fails)
        elif what == "close":
            watched.closing._close = _fails
        elif what == "wake":
            monkeypatch.setattr(ClientConnection, "wake", _fails)
        if way == "by lingering":
            linger = asyncio.ensure_future(watched.closing.linger(watched))
            await asyncio.sleep(0)
            watched.reader.feed_eof()
            await asyncio.wait([linger])
            assert isinstance(linger.exception(), RuntimeError | AttributeError)
        else:
            watched.reader.feed_eof()
            with pytest.raises((RuntimeError, AttributeError)):
                watched.close() if way == "at once" else site.guard.disconnected(client)
        await asyncio.sleep(0)
        assert not site.guard.connections and not site.guard._addresses and parted and not watched.open
        assert given_back == [one for one in range(3) if (what, one) != ("give_back", 1)]

    asyncio.run(run())
