"""The shape of our own keys: prefix, environment, 30 random base62 characters and six of checksum.

Law: pure text, nothing here knows whether a key exists. The checksum only spares the database a look-up and lets
scanners recognise a leaked key; it proves nothing. Values of any other shape are left to the key source.
"""

import secrets
import zlib

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ENVIRONMENTS = ("live", "test")
MAX_BYTES = 512

_RANDOM, _CHECK = 30, 6
"""30 base62 characters are 178 bits; 62**6 > 2**32, so six hold any CRC-32."""
_ALPHABET = frozenset(BASE62)


def generate(prefix: str, env: str) -> str:
    """A new key of ours for the environment `live` or `test`, from the system's random source."""
    start = f"{prefix}_{env}_" + "".join(secrets.choice(BASE62) for _ in range(_RANDOM))
    return start + checksum(start)


def checksum(text: str) -> str:
    """CRC-32 (ISO-HDLC, as in zlib) of `text` in six base62 characters, most significant first."""
    rest, digits = zlib.crc32(text.encode()), ""
    for _ in range(_CHECK):
        rest, digit = divmod(rest, 62)
        digits = BASE62[digit] + digits
    return digits


def environment(value: str, prefix: str) -> str | None:
    """`live` or `test` for a value that begins as our own keys do; None for every other."""
    for env in ENVIRONMENTS:
        if value.startswith(f"{prefix}_{env}_"):
            return env
    return None


def checksum_holds(value: str, prefix: str) -> bool:
    """Whether the value may go to the source: it is not ours to judge, or ours with the right length and checksum."""
    env = environment(value, prefix)
    if env is None:
        return True
    body = value[len(prefix) + len(env) + 2 :]
    return len(body) == _RANDOM + _CHECK and _ALPHABET.issuperset(body) and checksum(value[:-_CHECK]) == value[-_CHECK:]


def obfuscated(value: str) -> str:
    """The part of a key that may be shown: `ksw_live_...3456`; of one shorter than 12 characters only `...`."""
    if len(value) < 12:
        return "..."
    # The last four are never part of what is shown in front, wherever a foreign key has its underscore.
    start = value[: value[:-4].rfind("_") + 1]
    return f"{start if len(start) <= 16 else ''}...{value[-4:]}"


def well_formed(value: str) -> bool:
    """Whether a value can be a key at all: 1 to 512 characters of printable ASCII (0x21-0x7e)."""
    return 0 < len(value) <= MAX_BYTES and value.isascii() and value.isprintable() and " " not in value
