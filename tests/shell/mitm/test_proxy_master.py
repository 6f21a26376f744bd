"""The names and orders of mitmproxy's private side that shell/mitm counts on: a new mitmproxy that changes one fails."""

import asyncio
import contextlib
import inspect
import logging
import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from mitmproxy.options import Options
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server import ConnectionHandler
from mitmproxy.test import tflow
from mitmproxy.tools.console.master import ConsoleMaster
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.tools.web.master import WebMaster

from keyswap.shell.mitm import connection_handler, flows, proxy_master, sockets, wire_logs


def in_master(test: Callable[[DumpMaster], None]) -> None:
    async def run() -> None:
        master = DumpMaster(Options(mode=["reverse:http://127.0.0.1:9000@127.0.0.1:0"]), with_termlog=False)
        try:
            test(master)
        finally:
            await master.done()

    asyncio.run(run())


def test_the_listener_is_rekeyed() -> None:
    """A live listener gets the dead mode, under its own key, and keeps the address it listens on."""

    async def run() -> None:
        master = DumpMaster(Options(mode=["reverse:http://127.0.0.1:9000@127.0.0.1:0"]), with_termlog=False)
        proxyserver = master.addons.get("proxyserver")
        await proxyserver.setup_servers()
        (before,) = proxyserver.servers
        listening = before.listen_addrs
        proxy_master.close_direct_path(master)
        (after,) = proxyserver.servers
        assert after is before and after.listen_addrs == listening
        assert after.mode == ProxyMode.parse("reverse:http://127.0.0.1:9@127.0.0.1:0")
        assert proxyserver.servers[after.mode] is after and len(proxyserver.servers) == 1
        assert proxy_master.listen_addresses(master) == [f"127.0.0.1:{listening[0][1]}"]
        proxyserver.running()
        await proxyserver.servers.update([after.mode])
        (still,) = proxyserver.servers
        assert still is before and still.listen_addrs == listening, "an update of modes must not rebind"
        await still.stop()
        await master.done()

    asyncio.run(run())


def test_an_addon_comes_first() -> None:
    """After move_to_front an addon is asked before all others."""

    class Probe:
        name = "probe"

    def check(master: DumpMaster) -> None:
        probe = Probe()
        master.addons.add(probe)
        proxy_master.move_to_front(master, probe)
        assert master.addons.chain[0] is probe and master.addons.get("probe") is probe

    in_master(check)


def test_wire_logs_are_quiet() -> None:
    """Below `warning`, nothing that a connection logs is recorded anywhere."""
    wire_logs.quieten_wire_logs()
    for name in ("mitmproxy.proxy.server", "mitmproxy.proxy.layers.http", "mitmproxy.proxy.layer"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
        assert logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_the_wire_log_comes_from_the_logger_that_is_quiet() -> None:
    """mitmproxy's connections log through `mitmproxy.proxy.server`."""
    from mitmproxy.proxy import server

    assert server.logger.name == "mitmproxy.proxy.server"


def test_kinds_of_masters_are_told_apart() -> None:
    """mitmweb and the console keep flows for a person, mitmdump for a file; only the console owns the terminal."""

    async def run() -> None:
        for kind, saving, keeps in (
            (DumpMaster, {}, False),
            (WebMaster, {}, True),
            (DumpMaster, {"save_stream_file": os.devnull}, True),
            (DumpMaster, {"hardump": os.devnull}, True),
        ):
            master = kind(Options(), with_termlog=False)
            master.options.update(**saving)
            assert proxy_master.keeps_flows(master) is keeps and not proxy_master.owns_terminal(master)
            await master.done()
        assert ConsoleMaster.__name__ == "ConsoleMaster"

    asyncio.run(run())


def test_an_exchange_is_not_saved() -> None:
    """What is remembered of a flow is in no flow file, and a copy of the flow has none."""
    flow = tflow.tflow()
    flows.attach_exchange(flow, object())
    assert flows.exchange_of(flow) is not None
    assert "keyswap_exchange" not in str(flow.get_state())
    assert flows.exchange_of(flow.copy()) is None


def test_no_command_answers_from_a_recording() -> None:
    """Of mitmproxy's server replay only the commands that add nothing are left."""

    def check(master: DumpMaster) -> None:
        assert "replay.server" in master.commands.commands
        proxy_master.drop_replays(master)
        left = {name for name in master.commands.commands if name.startswith("replay.server")}
        assert left == {"replay.server.count", "replay.server.stop"}

    in_master(check)


def test_reading_waits_for_writing_elsewhere() -> None:
    """mitmproxy asks its handler to wait for both sides before each read; ours answers at once, and waits for one."""
    assert asyncio.iscoroutinefunction(ConnectionHandler.drain_writers)
    assert "drain_writers()" in inspect.getsource(ConnectionHandler.handle_connection)
    handler = SimpleNamespace()
    connection_handler.leave_draining(handler)
    assert asyncio.run(handler.drain_writers()) is None


def test_no_connection_upstream_waits_for_its_turn() -> None:
    """mitmproxy asks its handler for each connection's turn, outside of what tells of a failure; ours comes at once."""
    assert "async with self.max_conns[command.connection.address]" in inspect.getsource(
        ConnectionHandler.open_connection
    )
    handler = SimpleNamespace()
    connection_handler.lift_connection_limit(handler)

    async def take() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(1000):
                await stack.enter_async_context(handler.max_conns["127.0.0.1", 1])

    asyncio.run(asyncio.wait_for(take(), 1))


def test_connections_that_could_not_be_made_are_forgotten() -> None:
    """mitmproxy keeps them in its handler's transports until the caller's connection ends."""
    assert "self.transports.pop" not in inspect.getsource(ConnectionHandler.open_connection)
    handler = SimpleNamespace(transports={"server": None})
    for _ in range(2):
        connection_handler.forget_transport(handler, cast("Any", "server"))
    assert handler.transports == {}
    connection_handler.cancel_transport(handler, cast("Any", "server"))


def test_little_is_read_ahead() -> None:
    """Of a megabyte that nobody reads at most some 100 KB are taken from the socket, and all of it comes in the end."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        sockets.read_little_ahead(reader, writer)
        sender = asyncio.ensure_future(asyncio.to_thread(theirs.sendall, bytes(1 << 20)))
        try:
            before = 0
            while not before or sockets.bytes_ahead(reader) != before:
                before = sockets.bytes_ahead(reader)
                for _ in range(20):
                    await asyncio.sleep(0)
            assert before <= 2 * sockets.READ_AHEAD
            await reader.readexactly(1 << 20)
            await sender
        finally:
            theirs.shutdown(socket.SHUT_RDWR)  # whoever still sends is waited for at the end of the loop
            writer.close()
            theirs.close()

    asyncio.run(run())
