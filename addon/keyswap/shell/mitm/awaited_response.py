"""A response that nobody will get, because its caller has gone: only whether it begins is of interest.

Law: it only reads; nothing of it is passed on.
"""

import re
from contextlib import suppress
from typing import Any

from mitmproxy.connection import Server
from mitmproxy.proxy.layers.tls import ServerTLSLayer
from OpenSSL import SSL

from keyswap.shell.mitm.upstream_pool import client_of

_INTERIM = re.compile(rb"HTTP/[0-9]\.[0-9] 1(?!01)[0-9]{2}")
MOST_INTERIM = 64 << 10
"""Bytes after which an interim response is none."""


def sent_over(layer: Any, server: Server) -> Any:
    """What speaks HTTP/1 over a connection, if a request was sent of which no answer has begun."""
    client = client_of(layer, server) if layer is not None else None
    return client if client is not None and _awaits(client) else None


def _awaits(client: Any) -> bool:
    return client.request is not None and client.response is None


class AwaitedResponse:
    """The response to a request whose caller has gone, and when it begins."""

    def __init__(self, client: Any) -> None:
        """`client`: what `sent_over` gave."""
        self._client = client
        layers = [layer for layer in client.context.layers if isinstance(layer, ServerTLSLayer)]
        self._tls = next((layer.tls for layer in layers if layer.conn is client.conn), None)
        self._came = bytearray(client.buf._data)

    @property
    def request_is_whole(self) -> bool:
        """Whether all of the request was sent."""
        return bool(self._client.request_done)

    @property
    def has_begun(self) -> bool:
        """Whether it began to come while somebody waited for it."""
        return not _awaits(self._client)

    def begins(self, data: bytes) -> bool:
        """Whether it has begun with these bytes; interim responses are none (RFC 9110 §15.2)."""
        self._came += self._read(data) if self._tls is not None else data
        while (interim := _INTERIM.match(self._came)) is not None and (end := self._came.find(b"\r\n\r\n")) > 0:
            del self._came[: end + 4]
        return len(self._came) >= 12 and (interim is None or len(self._came) > MOST_INTERIM)

    def _read(self, data: bytes) -> bytes:
        tls: Any = self._tls
        plain = bytearray()
        with suppress(SSL.Error):
            tls.bio_write(data)
            while True:
                plain += tls.recv(65_535)
        return bytes(plain)
