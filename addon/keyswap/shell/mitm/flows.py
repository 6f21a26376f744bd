"""What is remembered of mitmproxy's flows and connections: a request's state, and why it has no answer.

Law: as in `patch_table`. Nothing of it is saved in flow files, or read from them.
"""

from typing import Any, cast

from mitmproxy.connection import Connection
from mitmproxy.http import HTTPFlow
from OpenSSL import SSL


def exchange_of(flow: HTTPFlow) -> Any:
    """A flow's exchange, or None. Unlike `metadata` it is not saved in flow files nor read from them."""
    return vars(flow).get("keyswap_exchange")


def attach_exchange(flow: HTTPFlow, exchange: object) -> None:
    """Remember a flow's exchange for as long as mitmproxy remembers the flow."""
    vars(flow)["keyswap_exchange"] = exchange


def blame(flow: HTTPFlow, why: str) -> None:
    """Remember why a request has no answer, or will not have one if it ends now."""
    vars(flow)["keyswap_why"] = why


def blamed(flow: HTTPFlow) -> str | None:
    """The reason that `blame` remembered last, or None."""
    return vars(flow).get("keyswap_why")


def blame_connection(connection: Connection, why: str) -> None:
    """Remember why a connection upstream was not made, for the requests that wait for it."""
    vars(connection)["keyswap_why"] = why


def certificate_error(ssl_conn: Any) -> int:
    """OpenSSL's X509_V_ERR of a peer's certificate; 0: it is not to blame."""
    return int(cast("Any", SSL)._lib.SSL_get_verify_result(ssl_conn._ssl)) if ssl_conn is not None else 0


def caller_left(flow: HTTPFlow) -> bool:
    """Whether a flow's error is that its caller has gone away, or reset its stream."""
    message = flow.error.msg if flow.error is not None else ""
    return (
        not flow.client_conn.connected
        or message == "Client disconnected."
        or message.startswith("stream reset by client")
    )
