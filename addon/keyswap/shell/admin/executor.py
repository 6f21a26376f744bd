"""How the admin listener works on the state directory: beside the event loop, and with one reading of what goes wrong.

Law: the database is used on threads of their own, so that who waits for it holds up nothing else that the listener
answers; whatever a caller can get wrong is answered in WorkOS' shape, and all else is for the listener to log.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

from keyswap.keys.local.reader import Catalogue, UnknownKey
from keyswap.keys.paging import Page, UnknownCursor
from keyswap.keys.pepper import Pepper
from keyswap.refusals import Answer
from keyswap.shell.admin.requests import Invalid, unknown
from keyswap.shell.admin.responses import as_json, error
from keyswap.shell.admin.routes import Asked, Gateway, Keeping
from keyswap.state import Epochs, StateDirectory

BUSY_MS = 2_000
"""How long a writer waits for another one: an answer has its time too."""

_THREADS = ThreadPoolExecutor(4, "keyswap admin")  # its threads begin when there is something to do

Work = Callable[[Keeping, Asked, float], Answer]
"""What answers a request, with the time now (epoch seconds). It may wait for the disk."""


class Missing(Exception):
    """There is no such thing (404). The message names its kind, never what was asked for."""


class Conflict(Exception):
    """It cannot be done to what is there (409)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def working(work: Work) -> Callable[[Gateway, Asked], Awaitable[Answer]]:
    """A route's answer, made on another thread."""

    async def respond(gateway: Gateway, asked: Asked) -> Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_THREADS, _done, work, gateway.keeping, asked)

    return respond


def _done(work: Work, keeping: Keeping, asked: Asked) -> Answer:
    try:
        return work(keeping, asked, time.time())
    except UnknownCursor as found:
        return _invalid(unknown(found), asked)
    except Invalid as found:
        return _invalid(found, asked)
    except UnknownKey:
        return error(404, "API key not found.", asked.request_id, "entity_not_found")
    except Missing as found:
        return error(404, str(found), asked.request_id, "entity_not_found")
    except Conflict as found:
        return error(409, str(found), asked.request_id, found.code)


def _invalid(found: Invalid, asked: Asked) -> Answer:
    message = f"Validation failed: {found}."
    return error(422, message, asked.request_id, "invalid_request_parameters", found.errors)


@contextmanager
def opened[T: Catalogue](keeping: Keeping, kind: type[T]) -> Iterator[T]:
    """The key database, for one request: what has taken its place since the last one is found out at once."""
    state = StateDirectory(keeping.state)
    with closing(Epochs(state)) as epochs, kind(state, epochs, Pepper.load(state), keeping.prefix, BUSY_MS) as ledger:
        yield ledger


def listed[T](page: Page[T], shape: Callable[[T], object], request_id: str) -> Answer:
    """A page in WorkOS' shape."""
    cursors = {"before": page.before, "after": page.after}
    data = [shape(one) for one in page.data]
    return as_json({"object": "list", "data": data, "list_metadata": cursors}, request_id)
