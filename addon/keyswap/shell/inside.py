"""Every reliance on mitmproxy's private side; tests/shell/test_inside.py breaks when one of them changes.

Law: nothing outside this module touches a name of mitmproxy's that begins with an underscore, or counts on an order of
events that its documentation does not promise. Measured on 12.2.3.
"""

import logging
from typing import Any

from mitmproxy.http import HTTPFlow
from mitmproxy.master import Master
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
    spec = master.options.mode[0]
    dead = ProxyMode.parse(DEAD + spec[spec.index("@") :] if "@" in spec else DEAD)
    proxyserver: Any = master.addons.get("proxyserver")
    if proxyserver is not None:
        servers = proxyserver.servers
        for instance in servers:
            instance.mode = dead
        servers._instances = {instance.mode: instance for instance in servers}
    master.options.update(mode=[dead.full_spec])


def quieten_wire_logs() -> None:
    """Keep what callers send out of the log: below `warning`, mitmproxy's connections log raw heads, keys included."""
    logging.getLogger("mitmproxy.proxy").setLevel(logging.WARNING)


def keeps_flows(master: Master) -> bool:
    """Whether this mitmproxy shows flows to a person (mitmweb, mitmproxy), rather than forgetting them (mitmdump)."""
    return hasattr(master, "view")


def owns_terminal(master: Master) -> bool:
    """Whether standard output is a screen drawn by mitmproxy's console."""
    return type(master).__name__ == "ConsoleMaster"


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
