"""Addresses of callers as texts, and the one reading of them wherever they are compared.

Law: an IPv4 address that IPv6 merely wraps (RFC 4291 §2.5.5.2) is that IPv4 address, as its networks are networks of
IPv4; a zone is no part of an address. What is no address lies in no network, and is nobody's mistake.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_WRAPPED = IPv6Network("::ffff:0:0/96")


def plain(address: str) -> str:
    """The text without zone, and IPv4 where IPv6 merely wraps it."""
    if ":" not in address:
        return address
    address = address.partition("%")[0]
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return str(mapped) if mapped else address


def parsed(address: str) -> Address | None:
    """The address that a text is; None: it is none, as the name of a socket in the file system."""
    try:
        return ip_address(plain(address))
    except ValueError:
        return None


def network(cidr: str) -> Network:
    """The network that a policy or a key names. Raises ValueError."""
    declared = ip_network(cidr)
    if isinstance(declared, IPv6Network) and declared.subnet_of(_WRAPPED):
        return IPv4Network((int(declared.network_address) & 0xFFFF_FFFF, declared.prefixlen - 96))
    return declared


def is_among(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of these."""
    parsed_address = parsed(address)
    return parsed_address is not None and any(parsed_address in net for net in networks)
