"""Addresses of callers have one reading, wherever they are compared."""

import pytest

from keyswap.keys.key import allowed_from
from keyswap.limits.step import place
from keyswap.request.addresses import is_among, network, parsed, plain
from keyswap.request.header_policy import HeaderPolicy
from keyswap.shell.runtime.connection_limits import ConnectionLimits

ADDRESSES = [
    ("10.0.0.5", ["10.0.0.0/8"], True),
    ("::ffff:10.0.0.5", ["10.0.0.0/8"], True),
    ("::FFFF:0a00:0005", ["192.0.2.0/24", "10.0.0.5/32"], True),
    ("::ffff:10.0.0.5", ["::ffff:10.0.0.0/104"], True),
    ("10.0.0.5", ["::ffff:10.0.0.0/104"], True),
    ("::ffff:11.0.0.5", ["10.0.0.0/8"], False),
    ("10.0.0.5", ["2001:db8::/32"], False),
    ("fe80::1%eth0", ["fe80::/10"], True),
    ("fe80::1%eth0", ["10.0.0.0/8"], False),
    ("2001:db8::1", ["2001:db8::/32"], True),
    ("10.0.0.5", [], False),
    ("/run/keyswap:1.sock", ["0.0.0.0/0", "::/0"], False),
    ("@keyswap", ["0.0.0.0/0", "::/0"], False),
    ("", ["0.0.0.0/0", "::/0"], False),
]


@pytest.mark.parametrize(("address", "networks", "lies"), ADDRESSES)
def test_all_who_compare_addresses_agree(address: str, networks: list[str], lies: bool) -> None:
    """A proxy is one for who reads its headers and for who counts what it holds; a key's networks are read the same."""
    assert is_among(address, map(network, networks)) is lies
    assert ConnectionLimits(1, 1, 1, 1, 1, None, 0, tuple(map(network, networks))).is_proxy(address) is lies
    washed = HeaderPolicy([], [], networks)(((b"X-Forwarded-Proto", b"https"),), address)
    assert washed.proto == ("https" if lies else None) and washed.client == plain(address)
    assert allowed_from(address, tuple(networks)) is lies


@pytest.mark.parametrize(("address", "_networks", "_lies"), ADDRESSES)
def test_an_address_counts_as_the_one_that_it_is(address: str, _networks: list[str], _lies: bool) -> None:
    """A wrapped IPv4 address counts with the plain one; a peer whose name is no address counts as that name."""
    found = parsed(address)
    assert place(address) == place(plain(address)) == (address if found is None else place(str(found)))


def test_addresses_have_one_form() -> None:
    """IPv4 wrapped in IPv6 is IPv4; a zone is no part of an address."""
    assert plain("::ffff:1.2.3.4") == "1.2.3.4"
    assert plain("fe80::1%eth0") == "fe80::1"
