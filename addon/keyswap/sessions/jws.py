"""The shape of a token: a JWT in compact serialisation (RFC 7515 §3.1, RFC 7519), read strictly.

Law: one token has one text and one meaning. Base64url is canonical, so that no second text carries the same signature;
no name is given twice in an object, so that no two readers see two values; what the header asks for beyond naming a key
is refused, never ignored. Any text at all either reads or raises NotAToken, in time that is linear in its length.
"""

import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

from keyswap import strict_json
from keyswap.strict_json import AmbiguousJSON

MAX_BYTES = 16 * 1024
MAX_KID = 256
MAX_DEPTH = 32
"""The deepest nesting of a token's JSON: WorkOS' own claims need 2, a template's custom ones a few more."""
MAX_BRACKETS = 2048
"""The most brackets of a document, those in its texts too: they are looked at one by one."""

ALGORITHM = "RS256"
"""WorkOS signs with nothing else, so nothing else is verified (RFC 8725 §3.1)."""

# Keys that a token brings along, content that is encrypted or packed, and extensions that have to be understood.
_UNWANTED = frozenset({"crit", "b64", "zip", "cty", "enc", "jwk", "jku", "x5u", "x5c"})
_TYPES = frozenset({"jwt", "at+jwt"})
_ALPHABET = re.compile(rb"[A-Za-z0-9_-]+")
# The next bracket outside of strings. A string that does not end is one too, so that nothing is read twice.
_BRACKET = re.compile(r'(?:"(?:[^"\\]|\\.)*+\\?(?:"|\Z)|[^"\[\]{}])*+([\[\]{}])', re.DOTALL)


class NotAToken(Exception):
    """A text that is no token. The message says why, and quotes nothing but short pieces of it."""


class Token(NamedTuple):
    """A token that has been read and not verified."""

    kid: str
    claims: dict[str, Any]
    signed: bytes
    """The bytes under the signature (RFC 7515 §5.1)."""
    signature: bytes


def read(text: str) -> Token:
    """Read a compact token. Raises NotAToken."""
    if len(text) > MAX_BYTES:
        raise NotAToken(f"the token is longer than {MAX_BYTES} bytes")
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise NotAToken("the token is not ASCII") from error
    parts = raw.split(b".")
    if len(parts) != 3:
        raise NotAToken(f"the token has {len(parts)} parts, not 3")
    kid = _kid(json_object(decoded(parts[0], "header"), "header"))
    claims = json_object(decoded(parts[1], "payload"), "payload")
    return Token(kid, claims, raw[: raw.rindex(b".")], decoded(parts[2], "signature"))


def decoded(part: bytes, name: str) -> bytes:
    """Canonical base64url without padding (RFC 7515 §2). Raises NotAToken."""
    if not _ALPHABET.fullmatch(part) or len(part) % 4 == 1:
        raise NotAToken(f"the {name} is not base64url")
    content = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if urlsafe_b64encode(content).rstrip(b"=") != part:
        raise NotAToken(f"the {name} is not canonical base64url")
    return content


def json_object(raw: bytes, name: str) -> dict[str, Any]:
    """A JSON object in UTF-8 in which no name is given twice and every number is one. Raises NotAToken."""
    try:
        text = raw.decode("utf-8")
        _check_depth(text)
        value = strict_json.loads(text, as_float=_finite)
        # Half a surrogate pair can be escaped in JSON, and written nowhere.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise NotAToken(f"the {name} is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, AmbiguousJSON) else "it does not parse"
        raise NotAToken(f"the {name} is no JSON: {why}") from error
    if not isinstance(value, dict):
        raise NotAToken(f"the {name} is no JSON object")
    return value


def shown(text: str) -> str:
    """A piece of a token for the log: it is what the caller chose, so it is cut, and quoted."""
    quoted = ascii(text[:80])
    return quoted if len(text) <= 80 and len(quoted) <= 82 else f"{quoted[:79]}...'"


def _check_depth(text: str) -> None:
    brackets = sum(map(text.count, "[]{}"))
    if brackets > MAX_BRACKETS:
        raise AmbiguousJSON(f"it has more than {MAX_BRACKETS} brackets")
    if brackets <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[1] in "[{" else -1
        if depth > MAX_DEPTH:
            raise AmbiguousJSON(f"it is nested deeper than {MAX_DEPTH}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise strict_json.NotFinite(text)
    return number


def _kid(header: dict[str, Any]) -> str:
    """The id of the key that a header names, if it asks for nothing else."""
    if header.get("alg") != ALGORITHM:
        raise NotAToken(f"the algorithm is not {ALGORITHM}")
    unwanted = sorted(_UNWANTED & header.keys())
    if unwanted:
        raise NotAToken(f"the header has {unwanted[0]}")
    if "typ" in header and not _is_jwt(header["typ"]):
        raise NotAToken("the type is neither JWT nor at+jwt")
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID:
        raise NotAToken(f"the key id is no text of 1 to {MAX_KID} characters")
    return kid


def _is_jwt(typ: object) -> bool:
    """A type's case and its `application/` say nothing (RFC 7515 §4.1.9)."""
    return isinstance(typ, str) and typ.lower().removeprefix("application/") in _TYPES
