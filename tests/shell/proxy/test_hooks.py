"""The addons under the one that mitmproxy is given."""

from typing import Any

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
