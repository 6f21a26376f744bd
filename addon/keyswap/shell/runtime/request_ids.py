"""Ids of requests.

Law: they sort by time: an index of them grows at its end.
"""

import os
import time


def new_request_id() -> str:
    """48 bits of milliseconds since 1970, then 48 random ones."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"
