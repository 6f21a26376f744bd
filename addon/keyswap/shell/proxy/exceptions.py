"""Exceptions that reached a hook: counted, and logged by where they came from.

Law: an exception's text is never logged: it may quote what a caller sent.
"""

import logging
import traceback
from pathlib import Path

from keyswap.shell.metrics.counters import EXCEPTIONS

logger = logging.getLogger(__name__)


def report(error: Exception) -> None:
    """Count an exception, and log where it came from."""
    EXCEPTIONS.caught += 1
    frames = " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-6:])
    )
    logger.error("%s in the gateway, the request was refused: %s", type(error).__name__, frames)
