"""HTTP/2 towards callers and backends, as `patch_table` changes it.

Law: as in `patch_table`. A stream that has ended towards the caller has ended in mitmproxy too, and upstream. h2 reads
all frames of a segment before mitmproxy sees the first event: what h2 says of a stream is how it stands after them all.
Measured on mitmproxy 12.2.3 and h2 4.3.
"""

from typing import Any

import h2.errors
import h2.events
import h2.exceptions
from hyperframe import frame as frames
from mitmproxy.proxy.commands import SendData
from mitmproxy.proxy.events import DataReceived, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._events import ErrorCode, ResponseHeaders, ResponseProtocolError

from keyswap.http_date import dated
from keyswap.shell.mitm.connection_watch import answer_to, layer_of, watch_of
from keyswap.shell.mitm.goaway import Goaway, serialize_goaway
from keyswap.shell.mitm.interjections import Interjection
from keyswap.shell.mitm.turns import TurnDue, wait_for_turn

MAX_STREAMS = 100
"""Requests of one connection that may be under way, h2's own bound on open streams: one more is refused."""
MAX_HPACK_TABLE = 4096
"""Bytes of headers that are remembered for a caller's answers, whatever it allows: each is searched line by line."""
RESET_COST = MALFORMED_COST = 4.0
"""What a reset or a malformed request costs: rapid reset (CVE-2023-44487), and the same by mistakes (CVE-2025-8671)."""
TURN, REQUEST_TURN = 64, 8
"""Frames that are read before others have their turn, and for how many of them a request counts: a read may hold a
thousand requests, or ten thousand frames."""
_HEADERS = int(frames.HeadersFrame.type)


def begin(original: Any, self: Any, *given: Any) -> None:
    """The costs of frames and the length of heads are those of the connection's watch."""
    original(self, *given)
    self.keyswap_missing = {}
    self.keyswap_rest, self.keyswap_waits = bytearray(), False
    watch = watch_of(self.context.client)
    if watch is not None:
        self.h2_conn.watch = watch
        # Twice the bound: what is over it once gets a 431, what is over it twice loses its connection.
        self.h2_conn.decoder.max_header_list_size = 2 * watch.max_head


def receive(original: Any, self: Any, event: Any) -> CommandGenerator[bool]:
    """Resets cost, and what mitmproxy must not see is kept from it."""
    event = _filter_event(self, event)
    if isinstance(event, h2.exceptions.DenialOfServiceError):
        yield from _enhance_your_calm(self)
        return True
    if isinstance(event, h2.events.StreamReset):
        watch = watch_of(self.context.client)
        refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM and not event.remote_reset
        if watch is not None and watch.is_abusive(1.0 if refused else RESET_COST):
            yield from _enhance_your_calm(self)
            return True
        if event.stream_id in layer_of(self).streams:
            # mitmproxy forgets a stream at its end when h2 has read its reset already, and then ignores the reset.
            self.streams[event.stream_id] = _http2.StreamState.HEADERS_RECEIVED
    return event is not None and bool((yield from original(self, event)))


def _filter_event(self: Any, event: Any) -> Any:
    """What mitmproxy is to see of this event: itself, a reset in its place, or None."""
    if isinstance(event, h2.events.RequestReceived):
        return _filter_request(self, event)
    if isinstance(event, h2.events.DataReceived):
        if event.stream_id in self.keyswap_missing:
            self.keyswap_missing[event.stream_id] -= len(event.data)
    elif isinstance(event, h2.events.TrailersReceived):
        return None  # mitmproxy cannot pass them to an HTTP/1 backend; discarded as on HTTP/1
    elif isinstance(event, h2.events.StreamEnded):
        if self.keyswap_missing.pop(event.stream_id, 0):
            return _reset(self, event.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)  # RFC 9113 §8.1.1
    elif isinstance(event, h2.events.RemoteSettingsChanged):
        encoder = self.h2_conn.encoder
        if encoder.header_table_size > MAX_HPACK_TABLE:
            encoder.header_table_size = MAX_HPACK_TABLE
            encoder.table_size_changes[:] = [min(size, MAX_HPACK_TABLE) for size in encoder.table_size_changes]
    return event


def _filter_request(self: Any, event: h2.events.RequestReceived) -> Any:
    stream_id, layer = event.stream_id, layer_of(self)
    assert stream_id is not None
    if self.is_closed(stream_id):
        return None  # taken back in the same segment; its reset follows
    if len(layer.streams) >= MAX_STREAMS and sum(map(_is_under_way, layer.streams.values())) >= MAX_STREAMS:
        return _reset(self, stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
    missing = next((int(value) for name, value in event.headers if name == b"content-length" and value.isdigit()), 0)
    if missing and event.stream_ended is not None:
        return _reset(self, stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
    if len(self.streams) > 2 * MAX_STREAMS:  # mitmproxy forgets none that has been answered
        for ended in [known for known in self.streams if known not in layer.streams and self.is_closed(known)]:
            del self.streams[ended]
            self.keyswap_missing.pop(ended, None)
    if missing:
        self.keyswap_missing[stream_id] = missing
    return event


def _is_under_way(stream: Any) -> bool:
    """Whether a request has not ended; what a caller has just reset is reported to the gate, then forgotten."""
    flow = getattr(stream, "flow", None)
    return flow is None or flow.error is None


def _reset(self: Any, stream_id: int, code: h2.errors.ErrorCodes) -> h2.events.StreamReset:
    """Reset a stream, and report it as if the caller had."""
    if not self.is_closed(stream_id):
        self.h2_conn.reset_stream(stream_id, code)
    return h2.events.StreamReset(stream_id=stream_id, error_code=code, remote_reset=False)


def _enhance_your_calm(self: Any) -> CommandGenerator[None]:
    yield from self.protocol_error("too many frames of no use", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)


def protocol_error(original: Any, self: Any, _message: str, *code: int) -> CommandGenerator[None]:
    """What ends a connection is said by its error code alone: the message would quote what was sent."""
    yield from original(self, "malformed HTTP/2", *code)


def close_connection(original: Any, self: Any, message: str) -> CommandGenerator[None]:
    """The end of a connection ends every request of it, also those that mitmproxy has forgotten here."""
    for stream_id in layer_of(self).streams:
        self.streams[stream_id] = _http2.StreamState.HEADERS_RECEIVED
    yield from original(self, message)


def receive_upstream(original: Any, self: Any, event: Any) -> CommandGenerator[bool]:
    """Trailers are discarded, as on HTTP/1."""
    if isinstance(event, h2.events.TrailersReceived):
        return False
    return bool((yield from original(self, event)))


def handle_event(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    """What is read is read in turns; answers are the gateway's own."""
    if isinstance(event, ResponseProtocolError):
        yield from _fail(original, self, event)
        return
    if isinstance(event, Goaway):
        yield SendData(self.conn, serialize_goaway())  # what h2 writes are whole frames: it stands between two of them
        return
    if isinstance(event, ResponseHeaders) and event.response.data.status_code >= 200:
        event.response.data.headers.fields = dated(event.response.data.headers.fields)
    if isinstance(event, TurnDue):
        self.keyswap_waits = False
        event = DataReceived(self.conn, b"")
    if isinstance(event, DataReceived):
        event = _in_turn(self, event)
        if not event.data:
            return
    yield from original(self, event)
    if isinstance(event, DataReceived) and _overfull(self):
        yield from self.protocol_error("a frame or header block is too long", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)


def _in_turn(self: Any, event: DataReceived) -> DataReceived:
    """So much of what was read as is taken in one turn; the rest waits for the next."""
    watch, rest = watch_of(self.context.client), self.keyswap_rest
    if watch is None:
        return event
    rest += event.data
    if self.keyswap_waits:
        return DataReceived(self.conn, b"")
    at = _end_of_turn(self.h2_conn.incoming_buffer, rest)
    taken = bytes(rest[:at])
    del rest[:at]
    if rest:
        wait_for_turn(self, watch)
    return DataReceived(self.conn, taken)


def _end_of_turn(buffer: Any, data: bytearray) -> int:
    """Where the frames end that are read in one turn; `buffer` is h2's, in which a frame may have begun."""
    at, cost = min(int(buffer._preamble_len), len(data)), 0
    begun = len(buffer._data)
    if begun:
        head = bytes(buffer._data[:3]) + bytes(data[at : at + 3])
        at += 9 + int.from_bytes(head[:3]) - begun if len(head) >= 3 else len(data)
    while at < len(data) and cost < TURN:
        if len(data) - at < 4:
            return len(data)
        cost += REQUEST_TURN if data[at + 3] == _HEADERS else 1
        at += 9 + int.from_bytes(data[at : at + 3])
    return min(at, len(data))


_MALFORMED = {ErrorCode.REQUEST_VALIDATION_FAILED, ErrorCode.DESTINATION_UNKNOWN}


def _fail(original: Any, self: Any, event: ResponseProtocolError) -> CommandGenerator[None]:
    """End a request: with an answer, if none has begun. mitmproxy keeps those for ever that it refuses itself."""
    connection, stream_id, streams = self.h2_conn, event.stream_id, layer_of(self).streams
    if isinstance(event, Interjection) and stream_id not in streams:
        return  # it has its answer
    state = connection.streams.get(stream_id)
    begun = state is not None and state.state_machine.headers_sent
    status, answer = event.code.http_status_code(), None
    if status is not None and not begun and self.is_open_for_us(stream_id):
        answer = answer_to(self, event, status)
    stream = streams.pop(stream_id, None)
    if answer is not None:
        fields = [(b":status", b"%d" % answer.status)] + [
            (name.lower(), value) for name, value in dated(answer.headers)
        ]
        connection.send_headers(stream_id, fields)
        connection.send_data(stream_id, answer.body, end_stream=True)
    elif begun and stream is not None and stream.server_state == stream.state_done and self.is_open_for_us(stream_id):
        connection.end_stream(stream_id)  # answered whole, before the request was
    else:
        yield from original(self, event)
        return
    if not self.is_closed(stream_id) and not connection.stream_buffers.get(stream_id):
        connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)  # RFC 9113 §8.1: send no more of it
    yield SendData(self.conn, connection.data_to_send())
    watch = watch_of(self.context.client)
    if event.code in _MALFORMED and watch is not None and watch.is_abusive(MALFORMED_COST):
        yield from _enhance_your_calm(self)


def _overfull(self: Any) -> bool:
    """Whether a frame, or a header block, will be too long: h2 checks neither before it has all of it."""
    watch, buffer = watch_of(self.context.client), self.h2_conn.incoming_buffer
    if watch is None or self._handle_event == self.done:
        return False
    held = sum(len(frame.data) for frame in buffer._headers_buffer)
    announced = int.from_bytes(buffer._data[:3]) if len(buffer._data) >= 3 else 0
    return bool(announced > buffer.max_frame_size or held > 2 * watch.max_head)
