"""What a caller sends before TLS stands.

Law: it is bounded in bytes, in reads and in records, whatever its bytes say. mitmproxy goes through all records of a
ClientHello anew at each read, and keeps as much as one announces, which may be 16 MiB; a real one has two kilobytes, in
one record or two (RFC 8446 §4.1.2, §5.1).
"""

MOST_BYTES, MOST_READS, MOST_RECORDS = 16 << 10, 64, 64
_HEAD = 5
_HANDSHAKE, _SEALED = 0x16, 0x17
"""Types of records; those that are sealed only the library of TLS can open, which reads them in one pass."""


class Opening:
    """The beginning of one connection that speaks TLS."""

    def __init__(self) -> None:
        self._left, self._reads, self._records = MOST_BYTES, MOST_READS, MOST_RECORDS
        self._head, self._body = bytearray(), 0

    @property
    def left(self) -> int:
        """Bytes that may still be read; none: it has taken too much."""
        return self._left if self._reads > 0 and self._records > 0 else 0

    def after(self, data: bytes, first: bool) -> "Opening | None":
        """Count what was read; None: the connection does not begin as TLS does, and there is nothing to bound here."""
        if first and data[:1] != bytes([_HANDSHAKE]):
            return None
        self._count(data)
        return self

    def _count(self, data: bytes) -> None:
        self._left -= len(data)
        self._reads -= 1
        at = 0
        while at < len(data) and self._records > 0:
            if self._body:
                step = min(self._body, len(data) - at)
                self._body -= step
            else:
                step = min(_HEAD - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                self._begin_record()
            at += step

    def _begin_record(self) -> None:
        if len(self._head) == _HEAD:
            self._records -= self._head[0] != _SEALED
            self._body = int.from_bytes(self._head[3:])
            self._head.clear()
