"""Notifications to the service manager: the gateway is ready, the gateway stops (systemd's sd_notify(3)).

Law: without `$NOTIFY_SOCKET` nothing is sent. A manager that cannot be reached is a line in the log, and holds
up nothing.
"""

import logging
import os
import socket

logger = logging.getLogger(__name__)

READY, STOPPING = "READY=1", "STOPPING=1"
PATIENCE_S = 1.0


def notify(state: str) -> None:
    """Send `state` to the datagram socket that the service manager named; `@` begins an abstract name."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(PATIENCE_S)
            line.sendto(state.encode(), address)
    except OSError as error:
        logger.warning("the service manager was not told %s: $NOTIFY_SOCKET cannot be written to (%s)", state, error)
