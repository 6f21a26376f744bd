"""Why a backend gave no answer: numbers of the system, and the few texts of mitmproxy."""

import errno
import inspect
import os
import socket

import pytest
from mitmproxy.proxy import server, tunnel
from mitmproxy.proxy.layers import tls

from keyswap.shell.mitm import connection_handler, upstream_errors

ADDRESS = ("10.0.0.1", 9000)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNREFUSED, "refused the connection (ECONNREFUSED: "),
        (errno.EHOSTUNREACH, "cannot be reached (EHOSTUNREACH: "),
        (errno.ENETUNREACH, "cannot be reached (ENETUNREACH: "),
        (errno.ETIMEDOUT, "accepted no connection in time (ETIMEDOUT: "),
        (errno.EMFILE, "was not asked: this process has no file descriptor left (EMFILE: "),
        (errno.EACCES, "accepted no connection (EACCES: "),
    ],
)
def test_errors_are_told_apart_by_their_numbers(number: int, cause: str) -> None:
    """In any language, of one address or of several."""
    for text in (str(OSError(number, "anything")), f"Multiple exceptions: [Errno 1] no, {OSError(number, 'nichts')}"):
        assert upstream_errors.of_connecting(ADDRESS, text).startswith(
            f"the upstream 10.0.0.1:9000 {cause}{os.strerror(number)}"
        )


def test_a_name_that_is_unknown_is_no_system_error() -> None:
    """What the resolver says has numbers of its own."""
    told = upstream_errors.of_connecting(("a.invalid", 80), str(socket.gaierror(socket.EAI_NONAME, "unbekannt")))
    assert (
        told
        == f"the upstream a.invalid:80 has a name that cannot be resolved (EAI {int(socket.EAI_NONAME)}: EAI_NONAME)"
    )
    assert upstream_errors.of_connecting(("::1", 80), "").startswith("the upstream [::1]:80 ")


@pytest.mark.parametrize(
    ("verified", "cause"), [(18, "not trusted"), (62, "another name"), (10, "expired"), (20, "not")]
)
def test_certificates_are_told_apart_by_openssls_numbers(verified: int, cause: str) -> None:
    """The words beside them do not matter."""
    assert cause in upstream_errors.of_tls(
        ADDRESS, verified, "words"
    ) and f"X509_V_ERR {verified}" in upstream_errors.of_tls(ADDRESS, verified, "")


def test_the_texts_are_mitmproxys() -> None:
    """Each text that is compared stands where it is said."""
    said = "".join(map(inspect.getsource, (server, tunnel, tls, connection_handler)))
    assert all(f'"{text}"' in said for text in upstream_errors.BY_TEXT)
