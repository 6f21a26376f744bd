"""The listening socket that a supervisor and its workers share: bound here, ended without a lost connection.

Law: closing a listening socket resets the connections that wait there to be accepted. So new ones are rejected first;
those that have begun are accepted; then the socket is closed. A caller that connects meanwhile gets no answer, tries
again after a second, as TCP does (RFC 6298 §2), and is refused then.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

from keyswap import host_port
from keyswap.model import StateError
from keyswap.shell.serve.settings import Start

_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER (socket(7)), which Python's socket does not name."""
_NO_NEW = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the flags of the TCP header,
        (0x54, 0, 0, 0x12),  # of them SYN and ACK;
        (0x15, 0, 1, 0x02),  # is it SYN alone?
        (0x06, 0, 0, 0),  # then the packet is dropped,
        (0x06, 0, 0, 0xFFFFFFFF),  # else it is taken
    )
)
"""A packet filter in the kernel's classic BPF: no connection begins, and one that has begun is not held up."""


def listen(start: Start) -> socket.socket:
    """The socket of the workers, bound: connections are refused until they are ready. Raises StateError."""
    if start.unix is not None:
        return _in_file_system(start, start.unix)
    try:
        addresses = socket.getaddrinfo(start.host, start.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.socket(addresses[0][0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if addresses[0][0] == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(addresses[0][4])
    except OSError as error:
        raise address_in_use(start, error) from error
    listening.setblocking(False)
    return listening


def _in_file_system(start: Start, path: Path) -> socket.socket:
    """A socket that the gateway's user and group may open. One that nobody listens on any more is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(os.fspath(path)) == 0:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            path.unlink()
        before = os.umask(0o117)
        try:
            listening.bind(os.fspath(path))
        finally:
            os.umask(before)
    except OSError as error:
        listening.close()
        raise address_in_use(start, error) from error
    listening.setblocking(False)
    return listening


def address_of(listening: socket.socket) -> str:
    """Where it listens: HOST:PORT, or unix:PATH."""
    name = listening.getsockname()
    return f"unix:{name}" if listening.family == socket.AF_UNIX else host_port.joined(*name[:2])


def close(listening: socket.socket) -> None:
    """Let no connection begin any more, and close it; those that have begun are its workers'."""
    if listening.family == socket.AF_UNIX:
        with suppress(OSError):
            Path(listening.getsockname()).unlink()
    else:
        reject_new_connections(listening)
    listening.close()


def address_in_use(start: Start, error: OSError) -> StateError:
    """The error when an address cannot be listened on."""
    why = error.strerror or error
    return StateError(
        f"{start.listen} cannot be listened on ({why}): is another program using it, or is it not this machine's?"
    )


def reject_new_connections(listening: socket.socket) -> None:
    """Let no connection begin at this socket any more, in any process that shares it; begun ones can be accepted.

    There is no way back, and only Linux can do it: elsewhere nothing changes.
    """
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(_NO_NEW, len(_NO_NEW))
    program = struct.pack("@HP", len(_NO_NEW) // 8, ctypes.addressof(code))  # struct sock_fprog
    with suppress(OSError):  # a system that calls itself Linux and has no such filters
        listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
