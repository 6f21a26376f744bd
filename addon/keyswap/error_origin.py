"""Where an exception comes from, as the log tells it.

Law: an exception's text is never told, nor a line of source or a value: it may quote what a caller sent. Telling of an
exception raises none.
"""

import traceback
from collections import deque
from pathlib import Path

FRAMES = 6
"""How many calls are told, those nearest to the error."""


def origin(error: BaseException) -> str:
    """The kind of an exception, and the calls in which it was raised: `KeyError at a.py:12 inner < b.py:4 outer`."""
    nearest = deque(traceback.walk_tb(error.__traceback__), FRAMES)
    calls = " < ".join(
        f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}" for frame, line in reversed(nearest)
    )
    return f"{type(error).__name__} at {calls or 'no call'}"
