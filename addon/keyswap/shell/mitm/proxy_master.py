"""mitmproxy's master: its addons, its commands, its listener and the upstream of its own.

Law: as in `patch_table`.
"""

from typing import Any

from mitmproxy.connection import Client
from mitmproxy.master import Master
from mitmproxy.proxy.mode_specs import ProxyMode

from keyswap import host_port

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


def drop_revocation_list(master: Master) -> None:
    """Take away mitmproxy's answer to every admitted request whose path ends with that of its own authority's CRL."""
    tlsconfig: Any = master.addons.get("tlsconfig")
    if tlsconfig is not None:
        tlsconfig.request = None


def web_url(master: Master) -> str | None:
    """Where mitmweb shows flows, with the token that lets a browser in; None for the others."""
    return getattr(master, "web_url", None)


def keeps_flows(master: Master) -> bool:
    """Whether this mitmproxy shows flows to a person (mitmweb, mitmproxy) or saves them: else it forgets them."""
    saving = (getattr(master.options, name, None) for name in ("save_stream_file", "hardump"))
    return hasattr(master, "view") or any(saving)


def owns_terminal(master: Master) -> bool:
    """Whether standard output is a screen drawn by mitmproxy's console."""
    return type(master).__name__ == "ConsoleMaster"


def handler_of(master: Master, client: Client) -> Any:
    """What carries a client's connection: mitmproxy's ConnectionHandler."""
    proxyserver: Any = master.addons.get("proxyserver")
    return proxyserver.connections[client.id]


async def stop_listening(master: Master) -> None:
    """Accept nobody any more; mitmproxy would until its last moment."""
    proxyserver: Any = master.addons.get("proxyserver")
    for instance in list(proxyserver.servers) if proxyserver is not None else []:
        if instance.is_running:
            await instance.stop()


def listen_addresses(master: Master) -> list[str]:
    """The addresses on which the listener really listens, as HOST:PORT."""
    proxyserver: Any = master.addons.get("proxyserver")
    addresses = proxyserver.listen_addrs() if proxyserver is not None else []
    return [f"unix:{address}" if isinstance(address, str) else host_port.joined(*address[:2]) for address in addresses]
