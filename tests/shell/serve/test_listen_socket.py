"""How a listening socket ends without a lost connection."""

import socket
import sys

import pytest

from keyswap.shell.serve.listen_socket import reject_new_connections


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do it")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_new_connections_are_rejected_and_begun_ones_are_served(host: str) -> None:
    """A connection that stands and was not accepted yet is served as ever; one that begins afterwards gets no answer, not
    even from another process's copy of the socket, and is refused when the last copy is closed."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        address, copy = listening.getsockname()[:2], listening.dup()
        with socket.create_connection(address, timeout=10) as early:
            reject_new_connections(listening)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            early.sendall(b"a question")
            copy.settimeout(10)
            accepted, _ = copy.accept()
            with accepted:
                assert accepted.recv(64) == b"a question"
                accepted.sendall(b"an answer")
                assert early.recv(64) == b"an answer"
            with pytest.raises(TimeoutError):
                copy.settimeout(0.1)
                copy.accept()
        copy.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
