"""How the admin listener works on the state directory: beside the event loop.

Law: the database is used on threads of their own, so that a wait for it holds up no other
answer of the listener.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from keyswap.keys.local.reader import Catalogue
from keyswap.keys.paging import Page
from keyswap.keys.pepper import Pepper
from keyswap.refusals import Answer
from keyswap.shell.admin.responses import as_json
from keyswap.shell.admin.routes import AdminRequest, Gateway, KeyStoreRef
from keyswap.state import Epochs, StateDirectory

BUSY_MS = 2_000
"""How long a writer waits for another one: an answer has its time too."""

_THREADS = ThreadPoolExecutor(4, "keyswap admin")  # its threads begin when there is something to do

Work = Callable[[KeyStoreRef, AdminRequest, float], Answer]
"""What answers a request, with the time now (epoch seconds). It may wait for the disk."""


def working(work: Work) -> Callable[[Gateway, AdminRequest], Awaitable[Answer]]:
    """A route's answer, made on another thread."""

    async def respond(gateway: Gateway, request: AdminRequest) -> Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREADS, work, gateway.key_store, request, time.time())

    return respond


@contextmanager
def opened[T: Catalogue](store: KeyStoreRef, kind: type[T]) -> Iterator[T]:
    """The key database, for one request: what has taken its place since the last one is found out at once."""
    state = StateDirectory(store.state)
    with closing(Epochs(state)) as epochs, kind(state, epochs, Pepper.load(state), store.prefix, BUSY_MS) as ledger:
        yield ledger


def listed[T](page: Page[T], shape: Callable[[T], object], request_id: str) -> Answer:
    """A page in WorkOS' shape."""
    cursors = {"before": page.before, "after": page.after}
    data = [shape(entry) for entry in page.data]
    return as_json({"object": "list", "data": data, "list_metadata": cursors}, request_id)
