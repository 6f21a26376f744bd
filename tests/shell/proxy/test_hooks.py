"""The addons under the one that mitmproxy is given."""

import asyncio
import gc
from typing import Any

import pytest
from mitmproxy.addonmanager import traverse
from mitmproxy.connection import Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import tflow

from keyswap.shell.proxy.addon import KeyswapAddon


def test_until_the_gate_has_started_everything_is_refused() -> None:
    """Without a gate a caller is turned away, a request is answered 503 without its headers, and no address is good."""
    hooks: dict[str, Any] = {}
    for addon in traverse([KeyswapAddon()]):
        for name in ("client_connected", "requestheaders", "request", "responseheaders", "response", "server_connect"):
            if hasattr(addon, name):
                assert name not in hooks, "two addons have a hook"
                hooks[name] = getattr(addon, name)
    assert set(hooks) == {"client_connected", "requestheaders", "server_connect"}
    flow = tflow.tflow()
    flow.request.headers["Authorization"] = "Bearer secret"
    hooks["requestheaders"](flow)
    assert flow.response is not None and flow.response.status_code == 503 and not flow.request.headers
    hooks["client_connected"](flow.client_conn)
    assert flow.client_conn.error
    data = ServerConnectionHookData(Server(address=("127.0.0.1", 80)), flow.client_conn)
    hooks["server_connect"](data)
    assert data.server.error


def test_an_exception_that_nobody_waited_for_is_told_by_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """Of a task or of a callback: neither its text nor what the callback was given is logged."""

    async def fails() -> None:
        raise ValueError("marked")

    async def run() -> None:
        await KeyswapAddon().running()
        loop = asyncio.get_running_loop()
        task = loop.create_task(fails())
        loop.call_soon(int, "marked")
        await asyncio.sleep(0.01)
        del task
        gc.collect()
        loop.call_exception_handler({"message": "a warning", "handle": "marked"})

    asyncio.run(run())
    callback, unwaited, warning = caplog.messages
    assert "ValueError at events.py:" in callback and "ValueError at test_hooks.py:" in unwaited
    assert warning.endswith(": a warning") and "marked" not in caplog.text
