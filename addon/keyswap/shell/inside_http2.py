"""mitmproxy's HTTP/2 layers, changed as `inside_http` says.

Law: as in `inside_http`. Measured on mitmproxy 12.2.3 and h2 4.3.
"""

from typing import Any

import h2.errors
import h2.events
from mitmproxy.proxy.commands import SendData
from mitmproxy.proxy.events import DataReceived, Event
from mitmproxy.proxy.layer import CommandGenerator
from mitmproxy.proxy.layers.http import _http2
from mitmproxy.proxy.layers.http._events import ResponseProtocolError

from keyswap.shell.inside_watch import answer_to, watch_of, wrap


def install() -> None:
    """Change the HTTP/2 layers of this process; doing it again changes nothing."""
    caller = _http2.Http2Server
    wrap(caller, "__init__", _begin_http2)
    wrap(caller, "_handle_event", _send_http2)
    wrap(caller, "handle_h2_event", _receive_http2)
    wrap(_http2.Http2Connection, "protocol_error", _end_http2)
    wrap(_http2.Http2Client, "handle_h2_event", _receive_http2_upstream)


def _begin_http2(original: Any, self: Any, *given: Any) -> None:
    original(self, *given)
    by = watch_of(self.context.client)
    if by is not None:
        # Twice the bound: what is over it once gets a 431, what is over it twice loses its connection.
        self.h2_conn.decoder.max_header_list_size = 2 * by.max_head


def _end_http2(original: Any, self: Any, _message: str, *code: int) -> CommandGenerator[None]:
    """What ends a connection is told by its error code alone: the message would quote what was sent."""
    yield from original(self, "malformed HTTP/2", *code)


def _send_http2(original: Any, self: Any, event: Event) -> CommandGenerator[None]:
    answer = None
    if isinstance(event, ResponseProtocolError) and (status := event.code.http_status_code()) is not None:
        stream = self.h2_conn.streams.get(event.stream_id)
        if stream is not None and self.is_open_for_us(event.stream_id) and not stream.state_machine.headers_sent:
            answer = answer_to(self, event, status)
    if answer is None:
        yield from original(self, event)
        if isinstance(event, DataReceived) and _overfull(self):
            yield from self.protocol_error(
                "a frame or header block is too long", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
            )
        return
    assert isinstance(event, ResponseProtocolError)
    connection, stream_id = self.h2_conn, event.stream_id
    fields = [(b":status", b"%d" % answer.status)] + [(name.lower(), value) for name, value in answer.headers]
    connection.send_headers(stream_id, fields)
    connection.send_data(stream_id, answer.body, end_stream=True)
    if not self.is_closed(stream_id) and not connection.stream_buffers.get(stream_id):
        connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)  # RFC 9113 §8.1: send no more of it
    yield SendData(self.conn, connection.data_to_send())


def _overfull(self: Any) -> bool:
    """Whether a frame, or a header block, will be too long: h2 checks neither before it has all of it."""
    by, buffer = watch_of(self.context.client), self.h2_conn.incoming_buffer
    if by is None or self._handle_event == self.done:
        return False
    held = sum(len(frame.data) for frame in buffer._headers_buffer)
    announced = int.from_bytes(buffer._data[:3]) if len(buffer._data) >= 3 else 0
    return bool(announced > buffer.max_frame_size or held > 2 * by.max_head)


_COSTS = {
    h2.events.StreamReset: 4.0,  # its request had been judged: rapid reset, CVE-2023-44487
    h2.events.RemoteSettingsChanged: 1.0,
    h2.events.PingReceived: 1.0,
    h2.events.PriorityUpdated: 1.0,
    h2.events.UnknownFrameReceived: 1.0,
}


def _receive_http2(original: Any, self: Any, event: Any) -> CommandGenerator[bool]:
    if isinstance(event, h2.events.TrailersReceived):
        return False  # mitmproxy cannot pass them to an HTTP/1 backend; discarded as on HTTP/1
    cost = _COSTS.get(type(event), 0.0)
    if isinstance(event, h2.events.DataReceived) and not event.data and not event.stream_ended:
        cost = 1.0
    if cost:
        by = watch_of(self.context.client)
        if by is not None and by.strike(cost):
            yield from self.protocol_error("too many frames of no use", h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            return True
    return bool((yield from original(self, event)))


def _receive_http2_upstream(original: Any, self: Any, event: Any) -> CommandGenerator[bool]:
    if isinstance(event, h2.events.TrailersReceived):
        return False
    return bool((yield from original(self, event)))
