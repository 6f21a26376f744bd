"""The gateway's own paths, and where an issuer says that they are."""

import pytest

from keyswap.shell.runtime.well_known import misplaced

HERE = ["127.0.0.1:9000"]


@pytest.mark.parametrize(
    "issuer", ["http://127.0.0.1:8080", "http://localhost:8080/a/", "http://[::1]", "http://127.9.9.9"]
)
def test_an_issuer_at_another_port_of_this_machine_is_said(issuer: str) -> None:
    """Backends fetch the key set at the issuer: a port of this machine that is not listened on is named, with ways out."""
    told = misplaced(issuer, HERE)
    assert told is not None and issuer in told and "127.0.0.1:9000" in told and "/.well-known/jwks.json" in told
    assert "//.well" not in told and ("8080" in issuer) == ("listen on 8080" in told)


@pytest.mark.parametrize(
    ("issuer", "listening"),
    [
        ("http://127.0.0.1:9000", HERE),
        ("http://localhost:9000/a", ["[::1]:9001", "0.0.0.0:9000"]),
        ("https://127.0.0.1:8080", HERE),
        ("http://api.example.com:8080", HERE),
        ("http://10.0.0.1:8080", HERE),
        ("http://127.0.0.1:8080", []),
    ],
)
def test_an_issuer_that_may_be_right_is_none(issuer: str, listening: list[str]) -> None:
    """A proxy in front may have any name, and TLS: of that nothing is known here."""
    assert misplaced(issuer, listening) is None
