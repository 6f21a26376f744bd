"""The hooks of the entry file: they put the gate into mitmproxy's master, once, and then play no part.

Law: from the moment the script is loaded nothing is forwarded that the gate did not admit, also when what it needs is
missing: then it refuses everything, and the start fails with one line that says why.
"""

import logging

from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError

from keyswap.model import StateError
from keyswap.shell.mitm import proxy_master
from keyswap.shell.proxy.addon import KeyswapAddon
from keyswap.shell.runtime.exceptions import report

logger = logging.getLogger(__name__)


def load(loader: Loader) -> None:
    """Add the gate to the master that loads the script; loading the script again changes nothing."""
    master = loader.master
    if master.addons.get(KeyswapAddon.name) is not None:
        return
    addon = KeyswapAddon()
    try:
        try:
            master.addons.add(addon)
        finally:
            # An option of ours that cannot be read stops `add` half-way: mitmproxy would go on, and forward.
            if addon not in master.addons.chain:
                master.addons.chain.append(addon)
            proxy_master.move_to_front(master, addon)
        addon.start(master)
    except (StateError, OptionsError) as error:
        # An exception would print a traceback; one error line while starting makes mitmproxy exit with 1.
        logger.error(str(error))
        proxy_master.close_direct_path(master)
    except Exception as error:  # noqa: BLE001 (refuse unless proven: also when the start has a bug)
        report(error)
        logger.error("keyswap could not start: everything is refused")
        proxy_master.close_direct_path(master)
