"""The certificate of `serve --tls-cert`: what the listener shows, and which protocols it then speaks.

Law: TLS 1.2 or newer with forward secrecy (RFC 9325 §3.1, §4.2), HTTP/2 or HTTP/1.1 by ALPN (RFC 7301); a certificate
that cannot be used stops the start, and never replaces one in use.
"""

import binascii
import logging
import re
from pathlib import Path
from ssl import DER_cert_to_PEM_cert

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL

from keyswap import files
from keyswap.file_identity import Version, version_of
from keyswap.model import StateError, Unread

logger = logging.getLogger(__name__)

_PROTOCOLS = (b"h2", b"http/1.1")
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_NO_RENEGOTIATION = 1 << 30
_MAX_BYTES = 1 << 20
_TRUSTED = re.compile(rb"-----BEGIN TRUSTED CERTIFICATE-----(.*?)-----END TRUSTED CERTIFICATE-----", re.DOTALL)
"""As `openssl x509 -trustout` and some authorities' tools write a certificate."""


class Certificate:
    """A certificate chain and its key, read from PEM files, and read again when they change."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read them. Raises StateError."""
        self._files = (chain.absolute(), key.absolute())
        self._seen, self._again = self._signature(), False
        self._complaint: str | None = None
        self.pem = "", ""
        """The chain and the key that are in use, for who speaks TLS in our place."""
        self._context = self._read()

    def connection(self) -> SSL.Connection:
        """The server's side of a new TLS connection, without a socket of its own."""
        connection = SSL.Connection(self._context)
        connection.set_accept_state()
        return connection

    def renew(self) -> None:
        """Take changed files, if they can be used; connections that are open keep what they have.

        It may be done on any thread, one at a time: files are waited for.
        """
        seen = self._signature()
        if seen == self._seen and not self._again:
            return
        self._seen, self._again = seen, False
        try:
            self._context = self._read()
        except Unread as damage:
            self._again = True  # a file that did not come is asked for until it does
            self._complain(damage)
        except StateError as damage:
            self._complain(damage)
        else:
            self._complaint = None
            logger.warning("certificate %s is in use", self._files[0])

    def _complain(self, damage: StateError) -> None:
        if str(damage) != self._complaint:
            logger.error("the old certificate stays: %s", damage)
        self._complaint = str(damage)

    def _signature(self) -> list[Version | None]:
        return [_changed(file) for file in self._files]

    def _read(self) -> SSL.Context:
        chain, key = self._files
        texts = [_text(file) for file in self._files]
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        try:
            first, *others = every = load_pem_x509_certificates(_TRUSTED.sub(_plain, texts[0]))
            context.use_certificate(first)
            for other in others:
                context.add_extra_chain_cert(other)
        except (SSL.Error, ValueError, UnsupportedAlgorithm) as error:
            raise StateError(f"{chain} holds no PEM certificate chain, the server's own first") from error
        try:
            context.use_privatekey(load_pem_private_key(texts[1], None))  # type: ignore[arg-type]
            context.check_privatekey()
        except (SSL.Error, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StateError(f"{key} holds no unencrypted PEM private key of the certificate in {chain}") from error
        self.pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in every), texts[1].decode()
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(_CIPHERS)
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_COMPRESSION | _NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # a connection at rest keeps 33 KiB less
        context.set_alpn_select_callback(_select)
        return context


def _plain(trusted: re.Match[bytes]) -> bytes:
    """A certificate without what OpenSSL has written behind it: what it is trusted for, which no server shows.

    Raises ValueError.
    """
    der = binascii.a2b_base64(trusted[1])
    # DER: a certificate is a SEQUENCE whose length takes two bytes (X.690 §8.1.3.5).
    end = 4 + int.from_bytes(der[2:4])
    if der[:2] != b"\x30\x82" or end > len(der):
        raise ValueError("no certificate")
    return DER_cert_to_PEM_cert(der[:end]).encode()


def _text(file: Path) -> bytes:
    try:
        return files.contents(file, _MAX_BYTES)
    except OSError as error:
        raise Unread(f"{file} cannot be read ({error.strerror}): --tls-cert and --tls-key name PEM files") from error


def _select(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    for protocol in _PROTOCOLS:
        if protocol in offered:
            return protocol
    raise SSL.Error([("SSL routines", "", "no application protocol")])  # RFC 7301 §3.2: a fatal alert


def _changed(file: Path) -> Version | None:
    try:
        status = files.within(files.WAIT_S, file.stat, file)
    except OSError:
        return None
    return version_of(status)
