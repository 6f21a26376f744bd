"""Guarantees of HOST:PORT: what is shown is what is read."""

import pytest

from keyswap.host_port import joined, split


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8080", "127.0.0.1", 8080), ("[::1]:8080", "::1", 8080), ("localhost:0", "localhost", 0), ("[fe80::1%2]:65535", "fe80::1%2", 65535)],
)  # fmt: skip
def test_a_host_and_a_port_are_read_as_they_are_shown(text: str, host: str, port: int) -> None:
    """Brackets stand around an address with colons, and only where it is shown."""
    assert split(text) == (host, port)
    assert joined(host, port) == text


@pytest.mark.parametrize("text", ["", ":80", "host", "host:", "host:x", "host:-1", "host:65536", "host:٨", "[::1:80", "::1]:80", "[::1]", "host:1²"])  # fmt: skip
def test_what_is_no_host_and_port_is_an_error(text: str) -> None:
    """A missing part, half a pair of brackets, or a port that is none."""
    with pytest.raises(ValueError):
        split(text)
