"""Exceptions that reached a hook: counted, and logged by where they came from.

Law: an exception's text is never logged: it may quote what a caller sent. What is attempted raises none.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from keyswap.error_origin import origin
from keyswap.shell.metrics.counters import EXCEPTIONS

logger = logging.getLogger(__name__)


def report(error: Exception) -> None:
    """Count an exception, and log where it came from."""
    EXCEPTIONS.caught += 1
    logger.error("an exception in the gateway, the request was refused: %s", origin(error))


def attempt(act: Callable[[], object]) -> bool:
    """Do what belongs to answering a failure, and may fail itself; False: it has, which is reported."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 (as in RequestHandler.judge, whose answer goes on without it)
        report(error)
        return False
    return True


def report_unhandled(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Count and log what nobody has waited for: the event loop's own message may quote what a callback was given."""
    error = context.get("exception")
    if error is None:
        logger.error("the event loop complains: %s", context.get("message", "of nothing"))
        return
    EXCEPTIONS.caught += 1
    logger.error("an exception in the gateway, which no request waited for: %s", origin(error))
