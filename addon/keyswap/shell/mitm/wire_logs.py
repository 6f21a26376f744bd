"""What mitmproxy logs of connections, without what callers and backends have sent.

Law: as in `patch_table`.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any, cast

from mitmproxy.proxy import server

HARMLESS = ("Server TLS handshake failed.",)
"""How the log lines of connections begin that quote neither a caller nor a backend."""


def quieten_wire_logs() -> None:
    """Keep what callers send out of the log: below `warning`, mitmproxy's connections log raw heads, keys included."""
    logging.getLogger("mitmproxy.proxy").setLevel(logging.WARNING)
    logging.getLogger("asyncio").addFilter(_is_no_cancellation)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Python 3.12.1 logs each connection that is open when the loop ends, with a traceback."""
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


def log_without_quoting(report: Callable[[Exception], None]) -> None:
    """Let connections log what is known to be harmless, and a crash of their layers as its place; it ends them.

    Everything else that they log may quote what a caller or a backend sent. Doing it again changes nothing.
    """

    def log(self: Any, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
        if exc_info:
            report(exc_info[1] if isinstance(exc_info, tuple) else cast("Exception", sys.exception()))
            with contextlib.suppress(KeyError, AttributeError):
                self.transports[self.client].writer.transport.abort()
        elif level >= logging.WARNING and message.startswith(HARMLESS):
            logging.getLogger("mitmproxy.proxy.server").log(level, message)

    server.ConnectionHandler.log = log  # type: ignore[method-assign]
