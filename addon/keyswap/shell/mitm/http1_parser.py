"""How HTTP/1 is parsed: strictly, so that no other parser reads it differently, and chunk by chunk only where it must.

Law: what mitmproxy and h11 refuse is refused here too.
"""

import re
from typing import Any

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer

MAX_CHUNK_HEAD = 16 << 10
"""Bytes of a chunk's size and extensions, or of trailers, after which a body is malformed."""
SMALL_CHUNK = 64
"""Bytes under which a chunk is small."""
_FIELDS = rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)*\r\n"
REQUEST_HEAD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^\x09-\x0d\x20]+ HTTP/1\.[01]\r\n" + _FIELDS)
RESPONSE_HEAD = re.compile(rb"HTTP/[0-9]\.[0-9] [1-9][0-9]{2}(?: [^\x00-\x08\x0a-\x1f\x7f]*)?\r\n" + _FIELDS)
"""Heads as RFC 9112 §2 to §5 have them, without their leniency: no bare CR or LF, no folded lines. Other bytes that a
request's target may not hold are left to the path law."""
_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")


class StrictBuffer(ReceiveBuffer):
    """What came from a peer. A head, or the head of a chunk, that another parser could read differently is none."""

    _extracted = bytearray()

    def __init__(self, head: re.Pattern[bytes]) -> None:
        super().__init__()
        self._head, self.awaits_head = head, False

    def _extract(self, count: int) -> bytearray:
        out = super()._extract(count)
        self._extracted = out if self.awaits_head else bytearray()
        return out

    def maybe_extract_next_line(self) -> bytearray | None:
        """The head of a chunk, in which nothing is lenient."""
        line = super().maybe_extract_next_line()
        return line if line is None or _CHUNK_HEAD.fullmatch(line) else bytearray(b"malformed\r\n")

    def maybe_extract_lines(self) -> list[bytearray] | None:
        """A head, in which nothing is lenient."""
        lines = super().maybe_extract_lines()
        if not self.awaits_head:
            return lines
        if lines == []:  # one empty line before a request is ignored (RFC 9112 §2.2)
            lines = super().maybe_extract_lines()
        if lines is None:
            return None
        self.awaits_head = False
        return lines if self._head.fullmatch(self._extracted) else [bytearray(b"malformed")]


class ChunkReader(ChunkedReader):
    """A chunked body without its trailers, which a recipient may discard (RFC 9110 §6.5.1), and with short heads.

    The chunks of a read are one event: with one for each, 64 KiB of chunks of a byte kept everybody waiting for half a
    second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.small = 0
        """Small chunks since they were last counted."""

    def __call__(self, buf: Any) -> Any:
        """The data of all whole chunks at once; of a chunk that is not whole, what h11 makes of it."""
        if self._bytes_to_discard == b"\r\n" and buf._data[:2] == b"\r\n":
            buf._extract(2)
            self._bytes_to_discard = b""
        if not (self._bytes_to_discard or self._bytes_in_chunk or self._reading_trailer):
            data = self._whole(buf)
            if data:
                return h11.Data(data=data)
        event = super().__call__(buf)
        if event is None and len(buf) > MAX_CHUNK_HEAD:
            raise h11.RemoteProtocolError("the head of a chunk, or the trailers, do not end")
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) and event.headers else event

    def _whole(self, buf: Any) -> bytes:
        """The data of all chunks that have come whole, up to one that is the last, or malformed."""
        came, at, small, data = bytes(buf._data), 0, 0, []
        match = _CHUNK_HEAD.match
        while head := match(came, at):
            begin, size = head.end(), int(head[1], 16)
            end = begin + size
            if not size or not came.startswith(b"\r\n", end):
                break
            data.append(came[begin:end])
            if size < SMALL_CHUNK:
                small += 1
            at = end + 2
        if at:
            buf._extract(at)
            self.small += small
        return b"".join(data)
