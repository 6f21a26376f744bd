"""Work that mitmproxy does for each request and nobody needs, taken away for `keyswap serve`.

Law: as in `lean`. What a request, a hook or an option is stays the same. Measured on 12.2.3.
"""

import asyncio
import copy
import gc
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

from mitmproxy import flow, http
from mitmproxy.connection import Connection
from mitmproxy.optmanager import _Option, unset
from mitmproxy.proxy import events, mode_servers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.http import HttpLayer, HttpStream

from keyswap.shell.mitm import flows
from keyswap.shell.mitm.lean import LeanConnection, ShortQueue
from keyswap.shell.mitm.patching import patch

_YOUNG = 10_000
"""Objects that are more than there were before what is young is looked through. Decisions that wait to be written are
1,000 to 2,000 of them, and no garbage: at 700, looking through them took 4 µs a request."""


def install_fast_paths() -> None:
    """Take work away from each request that nobody needs; doing it again changes nothing.

    Connections are LeanConnection; a stream's context is made without a server that is thrown away at once; messages
    are not looked through for fields of another type; options that nobody can change in place are not copied, and
    flows are numbered, which took 15 µs a request; a header is looked for in one pass, without an exception where
    it is missing; a stream or connection that has ended is freed at once, not when the garbage collector comes by,
    which leaves what is old to `ConnectionGuard.tidy`: with 3,000 connections it took 300 ms.
    """
    gc.set_threshold(_YOUNG, gc.get_threshold()[1], 1 << 30)
    mode_servers.ProxyConnectionHandler = LeanConnection  # type: ignore[misc]
    Context.fork = _fork  # type: ignore[method-assign]
    _Option.current = _current  # type: ignore[method-assign]
    flow.uuid = SimpleNamespace(uuid4=partial(next, count()))  # type: ignore[assignment, attr-defined]
    message: Any = http.MessageData
    message.__post_init__ = _as_it_is
    headers: Any = http.Headers
    headers.get_all, headers.get, headers.__contains__ = _get_all, _get, _contains
    connection: Any = Connection
    connection.__hash__, connection.__eq__ = object.__hash__, object.__eq__
    patch(HttpLayer, "__init__", _with_streams)
    patch(Layer, "__init__", _with_short_queue)


def _with_short_queue(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    self._paused_event_queue = ShortQueue()


def _with_streams(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    self.streams = _Streams()


class _Streams(dict[int, HttpStream]):
    """The streams of a connection. mitmproxy drops one by `pop` when it has ended, or all but its last event."""

    def pop(self, stream_id: int, default: Any = None) -> Any:
        """Drop a stream; it is let go when the event is over in which it ends."""
        stream = super().pop(stream_id, default)
        if stream is not None:
            asyncio.get_running_loop().call_soon(_let_go, stream)
        return stream


def _let_go(stream: Any) -> None:
    """Undo the circles that an ended stream and its flow stand in: the collector took 180 µs for each 14 requests."""
    if stream._paused is None:
        stream.keyswap_over = True
        stream.client_state = stream.server_state = _over
        stream.context.layers = []
        if hasattr(stream, "flow"):
            flows.attach_exchange(stream.flow, None)


def _over(_event: events.Event) -> tuple[()]:
    return ()


def _fork(self: Context) -> Context:
    forked = Context.__new__(Context)
    forked.client, forked.options, forked.server = self.client, self.options, self.server
    forked.layers = self.layers.copy()
    return forked


def _current(self: _Option) -> Any:
    value = self._default if self.value is unset else self.value
    return value if type(value) in _PLAIN else copy.deepcopy(value)


_PLAIN = {str, int, float, bool, type(None)}


def _as_it_is(_self: object) -> None:
    return None


def _get_all(self: http.Headers, name: str | bytes) -> list[str]:
    wanted = (name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")).lower()
    size = len(wanted)
    return [
        value.decode("utf-8", "surrogateescape")
        for known, value in self.fields
        if len(known) == size and known.lower() == wanted
    ]


def _get(self: http.Headers, name: str | bytes, default: Any = None) -> Any:
    values = _get_all(self, name)
    return ", ".join(values) if values else default


def _contains(self: http.Headers, name: object) -> bool:
    return isinstance(name, str | bytes) and bool(_get_all(self, name))
