"""The forms in which certificates are written."""

from pathlib import Path
from ssl import DER_cert_to_PEM_cert, PEM_cert_to_DER_cert

import pytest
from OpenSSL import SSL

from certificates import self_signed
from keyswap.model import StateError
from keyswap.shell.runtime.certificate import Certificate

TRUSTED_FOR_SERVERS = bytes.fromhex("300c300a06082b06010505070301")


def labelled(der: bytes, label: str) -> str:
    """A PEM text of this label."""
    return DER_cert_to_PEM_cert(der).replace(" CERTIFICATE", f" {label}")


@pytest.mark.parametrize("others", [0, 2])
def test_a_certificate_as_openssl_trusts_it(tmp_path: Path, others: int) -> None:
    """OpenSSL's own form, with what it trusts the certificate for behind it, is taken for that certificate."""
    chain = self_signed(tmp_path, "gateway")
    der = PEM_cert_to_DER_cert(chain.read_text())
    more = [self_signed(tmp_path, f"other{number}").read_text() for number in range(others)]
    chain.write_text(labelled(der + TRUSTED_FOR_SERVERS, "TRUSTED CERTIFICATE") + "".join(more))
    SSL.Context(SSL.TLS_SERVER_METHOD).use_certificate_chain_file(str(chain))
    connection = Certificate(chain, chain.with_suffix(".key")).connection()
    shown = connection.get_certificate()
    assert shown is not None and shown.to_cryptography().subject.rfc4514_string() == "CN=gateway"


@pytest.mark.parametrize("harm", [b"", b"\x30\x82\xff\xff", b"\x30\x03\x02\x01\x00"])
def test_what_is_no_certificate_is_told(tmp_path: Path, harm: bytes) -> None:
    """Whatever stands under that label, the file is named."""
    chain = self_signed(tmp_path, "gateway")
    chain.write_text(labelled(harm, "TRUSTED CERTIFICATE"))
    with pytest.raises(StateError, match=r"gateway\.pem holds no PEM certificate chain"):
        Certificate(chain, chain.with_suffix(".key"))
