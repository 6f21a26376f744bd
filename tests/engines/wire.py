"""A request as its bytes go over a connection."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Wire:
    """A request. Nothing is mended: a field may be none, and a payload may be framed as nobody would."""

    method: bytes
    target: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()
    payload: bytes = b""
    """What follows the head: the body as it is framed."""
    body: bytes = b""
    """The body itself."""
    version: bytes = b"HTTP/1.1"
    number: int = 0
    """Of its caller: where it comes from."""
    is_stray: bool = False
    """Limits may count it on one data path and not on another."""

    @cached_property
    def raw(self) -> bytes:
        """Its bytes."""
        head = b"".join(b"%s: %s\r\n" % field for field in self.fields)
        for written, own in self._addresses():
            head = head.replace(written, own)
        return b"%s %s %s\r\n%s\r\n%s" % (self.method, self.target, self.version, head, self.payload)

    @property
    def source(self) -> str:
        """The address that it comes from."""
        return f"127.{self.number >> 8 & 255}.{self.number & 255}.9"

    def _addresses(self) -> Iterator[tuple[bytes, bytes]]:
        """Addresses in fields are those of its caller."""
        high, low = self.number >> 8, self.number & 255
        yield b"10.0.0.", b"10.%d.%d." % (high, low)
        yield b"127.0.0.5", b"127.%d.%d.5" % (high, low)
        yield b"2001:db8::", b"2001:db8:%x::" % self.number

    @property
    def path(self) -> bytes:
        """Its target without the query."""
        return self.target.partition(b"?")[0]

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of this name, in order."""
        return [value for known, value in self.fields if known.lower() == name]

    def closes(self) -> bool:
        """Whether its connection is not used again: it says so, or may be read as something else than one request."""
        is_plain = self.version == b"HTTP/1.1" and len(self.values(b"host")) == 1
        framed = self.values(b"content-length") + self.values(b"transfer-encoding")
        return b"close" in self.values(b"connection") or not is_plain or len(framed) > 1
