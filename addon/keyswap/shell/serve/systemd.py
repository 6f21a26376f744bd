"""What the service manager is told: that requests can come, and that the gateway stops (systemd's sd_notify(3)).

Law: without `$NOTIFY_SOCKET` nobody is told anything. A manager that cannot be told is a line in the log: it holds up
nothing and ends nothing.
"""

import logging
import os
import socket

logger = logging.getLogger(__name__)

READY, STOPPING = "READY=1", "STOPPING=1"
PATIENCE_S = 1.0


def notify(state: str) -> None:
    """Send `state` to the datagram socket that the service manager named; `@` begins an abstract name."""
    named = os.environ.get("NOTIFY_SOCKET")
    if not named:
        return
    address = f"\0{named[1:]}" if named.startswith("@") else named
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(PATIENCE_S)
            line.sendto(state.encode(), address)
    except OSError as error:
        logger.warning("the service manager was not told %s: $NOTIFY_SOCKET cannot be written to (%s)", state, error)
