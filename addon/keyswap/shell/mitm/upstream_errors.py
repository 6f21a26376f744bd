"""Why a backend gave no answer, for the private reason of a 502 or 504: its cause, address and error number.

Law: none of this reaches a caller. Numbers are compared, never words: mitmproxy hands on what the system said as text,
of which the number is the same in every language. The few texts that are mitmproxy's own stand in one table.
"""

import errno
import os
import re
import socket
from collections.abc import Mapping

_NUMBER = re.compile(r"\[Errno (-?[0-9]+)\]")
_BY_NUMBER: Mapping[int, str] = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ECONNRESET: "reset the connection",
    errno.EHOSTUNREACH: "cannot be reached",
    errno.ENETUNREACH: "cannot be reached",
    errno.EHOSTDOWN: "cannot be reached",
    errno.ENETDOWN: "cannot be reached",
    errno.ETIMEDOUT: "accepted no connection in time",
    errno.EMFILE: "was not asked: this process has no file descriptor left",
    errno.ENFILE: "was not asked: this machine has no file descriptor left",
    errno.EADDRNOTAVAIL: "was not asked: this machine has no local port left for it",
}
_BY_CERTIFICATE: Mapping[int, str] = {
    9: "has a certificate that is not valid yet",
    10: "has a certificate that has expired",
    23: "has a certificate that is revoked",
    62: "has a certificate for another name",
    64: "has a certificate for another address",
}
"""By X509_V_ERR (OpenSSL, x509_vfy.h); of the others each says that there is no chain to a trusted authority."""
BY_TEXT: Mapping[str, str] = {
    "The remote server does not speak TLS.": "does not speak TLS there: is it http?",
    "connection closed": "closed the connection in the TLS handshake",
    "it was closed at once": "closed the connection at once",
}
"""What mitmproxy says in its own words; tests pin each."""
CLOSED = "closed the connection without an answer"
HALF_HEAD = "closed the connection within the head of its answer"
HALF_BODY = "closed the connection within the body of its answer"
MALFORMED = "sent a malformed answer"
LATE = "accepted no connection within timeouts.connect"
LATE_TLS = "did not end the TLS handshake within timeouts.connect: does it speak TLS there?"


def at(address: tuple[str, int] | None, cause: str, why: object = None) -> str:
    """The reason: which upstream, what it did, and the number and text of the system's error if there is one."""
    host = f"[{address[0]}]" if address is not None and ":" in address[0] else address and address[0]
    where = f"the upstream {host}:{address[1]}" if address is not None else "the upstream"
    number = why.errno if isinstance(why, OSError) else None
    return f"{where} {cause}{_detail(number) if number is not None else ''}"


def of_connecting(address: tuple[str, int] | None, error: str) -> str:
    """Why no connection was made. `error` is mitmproxy's text."""
    numbers = [int(number) for number in _NUMBER.findall(error)]
    if not numbers:
        return at(address, BY_TEXT.get(error, "accepted no connection"))
    number = numbers[-1]
    if number < 0:  # of the resolver (EAI), not of the system
        return at(address, f"has a name that cannot be resolved (EAI {number}: {_name(number)})")
    return at(address, _BY_NUMBER.get(number, "accepted no connection")) + _detail(number)


def of_tls(address: tuple[str, int] | None, verified: int, error: str) -> str:
    """Why TLS did not stand. `verified` is OpenSSL's X509_V_ERR, 0 where the certificate is not to blame."""
    if verified:
        cause = _BY_CERTIFICATE.get(verified, "has a certificate that is not trusted")
        return f"{at(address, cause)} (X509_V_ERR {verified})"
    return at(address, BY_TEXT.get(error, "did not agree on TLS"))


def _name(number: int) -> str:
    names = {getattr(socket, name): name for name in dir(socket) if name.startswith("EAI_")}
    return names.get(number, "unknown")


def _detail(number: int) -> str:
    return f" ({errno.errorcode.get(number, number)}: {os.strerror(number)})"
