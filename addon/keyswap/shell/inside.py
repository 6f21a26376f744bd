"""Every reliance on mitmproxy's private side; tests/shell/test_inside.py breaks when one of them changes.

Law: nothing outside this module touches a name of mitmproxy's that begins with an underscore, or counts on an order of
events that its documentation does not promise. Measured on 12.2.3.
"""

import logging
from collections.abc import Callable
from typing import Any

from mitmproxy.connection import ConnectionState
from mitmproxy.http import HTTPFlow
from mitmproxy.master import Master
from mitmproxy.proxy.commands import CloseConnection, SendData
from mitmproxy.proxy.events import Event
from mitmproxy.proxy.layer import CommandGenerator, Layer
from mitmproxy.proxy.layers.http import _http1
from mitmproxy.proxy.layers.http._events import HttpEvent, ResponseProtocolError
from mitmproxy.proxy.mode_specs import ProxyMode

DEAD = "reverse:http://127.0.0.1:9"
"""The upstream of mitmproxy itself: the discard port, where nothing listens. Only an Admit writes a real one."""


def move_to_front(master: Master, addon: object) -> None:
    """Let an addon see each event first: at the end, mitmweb's list would show the key before it is gone."""
    chain = master.addons.chain
    chain.remove(addon)
    chain.insert(0, addon)


def close_direct_path(master: Master) -> None:
    """Point the listener at the dead upstream, without closing it: no connection is lost, none is ever forwarded.

    Changing the option alone would not do: the listener was made from it before the script was loaded, and it is the
    listener's mode that each new connection gets.
    """
    spec = next(iter(master.options.mode), DEAD)
    dead = ProxyMode.parse(DEAD + spec[spec.index("@") :] if "@" in spec else DEAD)
    proxyserver: Any = master.addons.get("proxyserver")
    if proxyserver is not None:
        servers = proxyserver.servers
        for instance in servers:
            instance.mode = dead
        servers._instances = {instance.mode: instance for instance in servers}
    master.options.update(mode=[dead.full_spec])


def drop_replays(master: Master) -> None:
    """Take away mitmproxy's commands that answer requests from recordings: they act after the gate has decided."""
    for name in ("replay.server", "replay.server.add", "replay.server.file"):  # the console asks the others
        master.commands.commands.pop(name, None)


def web_url(master: Master) -> str | None:
    """Where mitmweb shows flows, with the token that lets a browser in; None for the others."""
    return getattr(master, "web_url", None)


def quieten_wire_logs() -> None:
    """Keep what callers send out of the log: below `warning`, mitmproxy's connections log raw heads, keys included."""
    logging.getLogger("mitmproxy.proxy").setLevel(logging.WARNING)


def keeps_flows(master: Master) -> bool:
    """Whether this mitmproxy shows flows to a person (mitmweb, mitmproxy), rather than forgetting them (mitmdump)."""
    return hasattr(master, "view")


def owns_terminal(master: Master) -> bool:
    """Whether standard output is a screen drawn by mitmproxy's console."""
    return type(master).__name__ == "ConsoleMaster"


class Hangup(Layer):
    """A layer that closes the caller's connection, whatever comes."""

    def _handle_event(self, _event: Event) -> CommandGenerator[None]:
        yield CloseConnection(self.context.client)


def render_errors(render: Callable[[int, str], bytes], new_request_id: Callable[[], str]) -> None:
    """Say what mitmproxy's HTTP/1 server would say in HTML, with the upstream's address in it, in our own words.

    `render` makes a whole response of a status and a request id. Doing it again changes nothing.
    """
    original = getattr(_http1.Http1Server.send, "before_keyswap", _http1.Http1Server.send)

    def send(self: Any, event: HttpEvent) -> CommandGenerator[None]:
        status = event.code.http_status_code() if isinstance(event, ResponseProtocolError) else None
        if status is None or self.response or not self.conn.state & ConnectionState.CAN_WRITE:
            yield from original(self, event)
            return
        # The request that was written upstream, and so has the id that its decision was logged with.
        request_id = self.request.headers.get("x-request-id") if self.request else None
        yield SendData(self.conn, render(status, request_id or new_request_id()))
        yield CloseConnection(self.conn)

    def make_error_response(status_code: int, message: str = "") -> bytes:  # noqa: ARG001 (it quotes the caller)
        return render(status_code, new_request_id())

    send.before_keyswap = original  # type: ignore[attr-defined]
    _http1.Http1Server.send = send  # type: ignore[method-assign]
    _http1.make_error_response = make_error_response


def ticket_of(flow: HTTPFlow) -> Any:
    """What `give_ticket` put on a flow, or None. Unlike `metadata` it is not saved in flow files nor read from them."""
    return vars(flow).get("keyswap_ticket")


def give_ticket(flow: HTTPFlow, ticket: object) -> None:
    """Remember something of a flow for as long as mitmproxy remembers the flow."""
    vars(flow)["keyswap_ticket"] = ticket


def listen_addresses(master: Master) -> list[str]:
    """The addresses on which the listener really listens, as HOST:PORT."""
    proxyserver: Any = master.addons.get("proxyserver")
    found = proxyserver.listen_addrs() if proxyserver is not None else []
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in found]
