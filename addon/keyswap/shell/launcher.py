"""`keyswap serve`: mitmproxy in this process, with the gate in its master from the first moment.

Law: the listener is made with the dead upstream, after the gate is in place and its policy in force; a start that fails
has listened to nobody, and says why in one line.
"""

import asyncio
import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from mitmproxy.exceptions import OptionsError
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.tools.dump import DumpMaster
from mitmproxy.tools.web.master import WebMaster

from keyswap.model import Damage, Upstream
from keyswap.shell import inside
from keyswap.shell.addon import KeyswapAddon
from keyswap.shell.tls import Certificate


class Ready:
    """Says when requests can come, as one JSON line on standard output."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def running(self) -> None:
        """Say it."""
        listen = ", ".join(inside.listen_addresses(self._master))
        print(json.dumps({"event": "ready", "listen": listen, "admin": None, "workers": 1}), flush=True)


@dataclass(frozen=True, slots=True)
class Start:
    """What `serve` was told."""

    policy: Path
    state: Path
    upstream: Upstream | None
    listen: tuple[str, int]
    web: bool = False
    tls: tuple[Path, Path] | None = None


async def serve(start: Start) -> None:
    """Run until SIGINT or SIGTERM. Raises Damage, before anything listens."""
    os.umask(0o077)  # mitmproxy's own files lie in the state directory too
    logging.getLogger().setLevel(logging.INFO)
    host, port = start.listen
    # A folder of its own keeps mitmproxy's certificates and settings out of the home folder.
    confdir = start.state / "mitmproxy"
    options = Options(listen_host=host, listen_port=port, mode=[inside.DEAD], confdir=str(confdir))
    master: Master = WebMaster(options) if start.web else DumpMaster(options)
    addon = KeyswapAddon(start.upstream, Certificate(*start.tls) if start.tls else None)
    master.addons.add(addon)
    inside.move_to_front(master, addon)
    options.update(keyswap_policy=str(start.policy), keyswap_state=str(start.state))
    if start.web:
        options.update(web_open_browser=False)
    if authorities := os.environ.get("SSL_CERT_FILE"):
        options.update(ssl_verify_upstream_trusted_ca=authorities)
    try:
        addon.start(master)
    except OptionsError as error:
        raise Damage(str(error)) from error
    master.addons.add(Ready(master))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, master.shutdown)
    try:
        await master.run()
    except SystemExit as error:
        raise Damage(f"{host}:{port} cannot be listened on: is another program using it?") from error
