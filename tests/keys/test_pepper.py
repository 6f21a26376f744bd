"""Guarantees of keys.pepper."""

import hashlib
import hmac
from pathlib import Path

import pytest

from keyswap.keys.pepper import Pepper
from keyswap.model import StateError
from keyswap.state import StateDirectory
from tests.keys.parts import Parts


def test_digest_is_hmac_of_sha256(tmp_path: Path) -> None:
    """The precomputed HMAC is the standard library's, and a SHA-256 is worth the value itself."""
    state = StateDirectory(tmp_path / "s").open()
    pepper = Pepper.load(state)
    secret = bytes.fromhex(state.file("pepper").read_text())
    inner = hashlib.sha256(b"value").digest()
    assert pepper.digest("value") == hmac.digest(secret, inner, "sha256") == pepper.digest_of_sha256(inner)
    assert Pepper.load(state).fingerprint == pepper.fingerprint != Pepper(b"x" * 32).fingerprint
    assert state.file("pepper").stat().st_mode & 0o777 == 0o600


def test_a_lost_pepper_is_never_made_anew(parts: Parts) -> None:
    """Beside an existing key database a missing pepper is an error that says what to do."""
    parts.state.file("pepper").unlink()
    with pytest.raises(StateError, match=r"is lost.*backup"):
        Pepper.load(parts.state)
    assert not parts.state.file("pepper").exists()


@pytest.mark.parametrize("content", [b"", b"xyz\n", b"00" * 31, b"\xff" * 64])
def test_a_malformed_pepper_is_damage(tmp_path: Path, content: bytes) -> None:
    """A pepper that is not 32 bytes of hex is refused and left as it is."""
    state = StateDirectory(tmp_path / "s").open()
    state.file("pepper").write_bytes(content)
    with pytest.raises(StateError, match="restore it"):
        Pepper.load(state)
    assert state.file("pepper").read_bytes() == content
