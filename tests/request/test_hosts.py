"""Which hosts callers may ask for."""

import pytest

from keyswap.request.hosts import Hosts

SERVED = ("api.example.com", "Admin.Example.com.:8443", "[2001:DB8:0::1]", "192.0.2.1:80")


@pytest.mark.parametrize(
    ("asked", "http", "https"),
    [
        ("api.example.com", True, True),
        ("API.Example.COM", True, True),
        ("api.example.com.", True, True),
        ("api.example.com:8080", True, True),
        ("api.example.com..", False, False),
        (".api.example.com", False, False),
        ("xapi.example.com", False, False),
        ("a.api.example.com", False, False),
        ("example.com", False, False),
        ("admin.example.com:8443", True, True),
        ("admin.example.com", False, False),
        ("admin.example.com:443", False, False),
        ("[2001:db8::1]", True, True),
        ("[2001:db8:0:0::0:1]:9", True, True),
        ("[2001:db8::2]", False, False),
        ("[::ffff:192.0.2.1]", False, False),
        ("192.0.2.1", True, False),
        ("192.0.2.1:80", True, True),
        ("192.0.2.1:443", False, False),
        ("api.example.com:99999", False, False),
        ("api.example.com:0", False, False),
        ("[nonsense]", False, False),
        ("", False, False),
        ("api.example.com, api.example.com", False, False),
    ],
)
def test_a_host_is_served_by_its_name_and_port(asked: str, http: bool, https: bool) -> None:
    """Names are compared whole, in any case and with or without a final dot; a port that is named counts, none is any."""
    hosts = Hosts(SERVED)
    assert [hosts(asked.encode(), scheme) for scheme in ("http", "https")] == [http, https]
    assert [hosts(asked.encode(), scheme) for scheme in ("http", "https")] == [http, https], "it is remembered"


def test_without_names_every_host_is_served() -> None:
    """A policy without `hosts` asks for none."""
    assert Hosts([])(b"anything", "http")


def test_the_memory_of_hosts_is_bounded() -> None:
    """Callers choose what they ask for: remembering it has a bound."""
    hosts = Hosts(["a"])
    assert not any(hosts(b"h%d" % number, "http") for number in range(2000)) and hosts(b"a", "http")
    assert len(hosts._known) <= 256
