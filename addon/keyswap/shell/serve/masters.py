"""mitmproxy's masters, with the gate in them from the first moment.

Law: the listener is made with the dead upstream, after the gate is in place and its policy in force; a start that fails
has accepted no connection, and says why in one line.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable

from mitmproxy.exceptions import OptionsError
from mitmproxy.master import Master
from mitmproxy.options import Options

from keyswap.model import StateError
from keyswap.shell.mitm import proxy_master
from keyswap.shell.proxy.addon import KeyswapAddon
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.serve.settings import Start, ready_line
from keyswap.shell.serve.systemd import READY, notify


class Running:
    """An addon that calls `on_ready` with the listener's addresses. It stands behind all others."""

    def __init__(self, on_ready: Callable[[list[str]], None], master: Master) -> None:
        self._on_ready, self._master = on_ready, master

    def running(self) -> None:
        """Connections can be accepted."""
        self._on_ready(proxy_master.listen_addresses(self._master))


def options_of(start: Start) -> Options:
    """The options of mitmproxy: its listener is made with the dead upstream."""
    os.umask(0o077)  # mitmproxy's own files lie in the state directory too
    logging.getLogger().setLevel(logging.INFO)
    # A folder of its own keeps mitmproxy's certificates and settings out of the home folder.
    confdir = start.state / "mitmproxy"
    return Options(listen_host=start.host, listen_port=start.port, mode=[proxy_master.DEAD], confdir=str(confdir))


def put_gate(master: Master, start: Start, supervised: bool = False, resumes: bool = False) -> KeyswapAddon:
    """Put the gate into a master, and its policy in force. Raises StateError."""
    certificate = Certificate(start.tls_cert, start.tls_key) if start.tls_cert and start.tls_key else None
    share = start.processes if supervised else 1
    if start.engine is None:
        addon = KeyswapAddon(start.upstream, certificate, supervised, resumes, share)
    else:
        addon = KeyswapAddon(
            start.upstream, None, supervised, resumes, share, "http" if certificate is None else "https"
        )
    master.addons.add(addon)
    proxy_master.move_to_front(master, addon)
    master.options.update(keyswap_policy=str(start.policy), keyswap_state=str(start.state))
    if authorities := os.environ.get("SSL_CERT_FILE"):
        master.options.update(ssl_verify_upstream_trusted_ca=authorities)
    try:
        addon.start(master)
    except OptionsError as error:
        raise StateError(str(error)) from error
    return addon


async def run_to_the_end(master: Master, start: Start) -> None:
    """Run a master. Raises StateError when it cannot listen."""
    try:
        await master.run()
    except SystemExit as error:
        raise StateError(f"{start.listen} cannot be listened on: is another program using it?") from error


def _check_free(port: int) -> None:
    """Raises StateError where mitmweb could not listen: its own error is a traceback, after all else has started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StateError(
                f"127.0.0.1:{port} cannot be listened on ({error.strerror}), which is for --web: is another program "
                "using it, or another gateway? Give --web-port another number"
            ) from error


async def serve_web(start: Start) -> None:
    """One process with mitmweb, until SIGINT or SIGTERM. Raises StateError, before anything listens."""
    from mitmproxy.tools.web.master import WebMaster  # workers do without it, and the memory it takes

    _check_free(start.web_port)
    master = WebMaster(options_of(start))
    addon = put_gate(master, start)
    master.options.update(web_open_browser=False, web_port=start.web_port)

    def print_ready(listening: list[str]) -> None:
        admin = addon.runtime.admin_address if addon.runtime is not None else None
        print(ready_line(", ".join(listening), admin, 1), flush=True)
        notify(READY)

    master.addons.add(Running(print_ready, master))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, master.shutdown)
    await run_to_the_end(master, start)
