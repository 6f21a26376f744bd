"""The certificate of `serve --tls-cert`: what the listener shows, and which protocols it then speaks.

Law: TLS 1.2 or newer with forward secrecy (RFC 9325 §3.1, §4.2), HTTP/2 or HTTP/1.1 by ALPN (RFC 7301); a certificate
that cannot be used stops the start, and never replaces one in use.
"""

import logging
from pathlib import Path

from OpenSSL import SSL

from keyswap.model import Damage

logger = logging.getLogger(__name__)

_PROTOCOLS = (b"h2", b"http/1.1")
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_NO_RENEGOTIATION = 1 << 30


class Certificate:
    """A certificate chain and its key, read from PEM files, and read again when they change."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read them. Raises Damage."""
        self._files = (chain.absolute(), key.absolute())
        self._seen = self._signature()
        self._context = self._read()

    def connection(self) -> SSL.Connection:
        """The server's side of a new TLS connection, without a socket of its own."""
        made = SSL.Connection(self._context)
        made.set_accept_state()
        return made

    def renew(self) -> None:
        """Take changed files, if they can be used; connections that are open keep what they have."""
        seen = self._signature()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._context = self._read()
        except Damage as damage:
            logger.error("the old certificate stays: %s", damage)
        else:
            logger.warning("certificate %s is in use", self._files[0])

    def _signature(self) -> list[tuple[int, int] | None]:
        return [_changed(file) for file in self._files]

    def _read(self) -> SSL.Context:
        chain, key = self._files
        for file in self._files:
            try:
                file.open("rb").close()
            except OSError as error:
                raise Damage(f"{file} cannot be read ({error.strerror}): --tls-cert and --tls-key name PEM") from error
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_passwd_cb(lambda *_: b"")  # otherwise an encrypted key asks on the terminal
        try:
            context.use_certificate_chain_file(str(chain))
        except SSL.Error as error:
            raise Damage(f"{chain} holds no PEM certificate chain, the server's own first") from error
        try:
            context.use_privatekey_file(str(key))
            context.check_privatekey()
        except SSL.Error as error:
            raise Damage(f"{key} holds no unencrypted PEM private key of the certificate in {chain}") from error
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(_CIPHERS)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_COMPRESSION | _NO_RENEGOTIATION)
        context.set_alpn_select_callback(_select)
        return context


def _select(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])  # RFC 7301 §3.2: a fatal alert


def _changed(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
