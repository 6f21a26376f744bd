"""The interpreter's heap and turns around a load of large documents.

Law: nothing here changes what a policy means; it spares requests the pauses that a load would cost them.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TURN_S = 0.0005


def freeze_heap(whole: bool) -> None:
    """Freeze what was loaded for the garbage collector: with large documents, a full collection takes 200 ms.

    A document that is replaced goes by counted references: it holds no cycles. `whole`: cycles that were frozen before
    are looked for too; else the young ones alone, which takes 2 ms. Memory that reading a document took is given back
    to the system, where its library can do that (glibc's malloc_trim).
    """
    if whole:
        gc.unfreeze()
    gc.collect(2 if whole else 1)
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()


@contextmanager
def in_small_turns() -> Iterator[None]:
    """Let other threads have the interpreter more often: the event loop would wait 5 ms for each turn."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
