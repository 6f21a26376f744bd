"""What precedes TLS is bounded, however it is cut."""

import struct

import pytest

from keyswap.shell.connections.client_hello import MOST_BYTES, MOST_READS, MOST_RECORDS, Opening


def records(count: int, size: int = 1, kind: int = 0x16) -> bytes:
    """TLS records of so many bytes each."""
    return (bytes([kind]) + b"\x03\x01" + struct.pack(">H", size) + bytes(size)) * count


def left_after(*reads: bytes) -> int:
    opening: Opening | None = Opening()
    for number, read in enumerate(reads):
        assert opening is not None
        opening = opening.after(read, first=number == 0)
    assert opening is not None
    return opening.left


@pytest.mark.parametrize(
    "reads",
    [
        (records(1, 512),),
        (records(1, 2048)[:100], records(1, 2048)[100:]),
        (records(3, 700), records(1, 1, 0x14) + records(1, 64, 0x17)),
        (records(1, 512), records(300, 20, 0x17)),  # requests behind the handshake, each in a record of its own
        tuple(bytes([byte]) for byte in records(1, 40)),
    ],
)
def test_a_handshake_may_go_on(reads: tuple[bytes, ...]) -> None:
    """A ClientHello of one record or some, in one read or some, with what follows it, leaves room for more."""
    assert left_after(*reads) > 0


@pytest.mark.parametrize(
    "reads",
    [
        (records(MOST_RECORDS),),
        (records(MOST_RECORDS // 2), records(MOST_RECORDS // 2)),
        (records(1, 1), records(MOST_RECORDS, 1, 0x14)),
        (records(1, MOST_BYTES),),
        tuple([records(1, 4000)[:1000]] + [b"\0"] * MOST_READS),
        tuple(records(40)[at : at + 4] for at in range(0, 240, 4))
        + tuple(records(40)[at : at + 4] for at in range(0, 240, 4)),
    ],
)
def test_more_than_a_handshake_may_not(reads: tuple[bytes, ...]) -> None:
    """Too many bytes, reads or records, also such as are cut in the middle of their heads: no more is read."""
    assert left_after(*reads) <= 0


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"\x80\x2e\x01", b""])
def test_what_is_no_tls_is_not_bounded_here(begin: bytes) -> None:
    """What does not begin as TLS does is bounded as the head of a request, or closed where TLS is spoken."""
    assert Opening().after(begin, first=True) is None
