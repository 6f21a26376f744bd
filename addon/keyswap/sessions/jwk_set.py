"""JWK Set (RFC 7517 §5) → the keys that can verify tokens, and nothing else of it.

Law: a key is used only if it says that it is of our one algorithm, or says nothing, and is strong enough; one id names
one key or none. What a document says beside that, private members too, is not looked at.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from keyswap.sessions.jws import ALGORITHM, MAX_KID, NotAToken, decoded, json_object

MAX_KEYS = 256
MIN_BITS, MAX_BITS = 2048, 8192
"""Below, a key can be broken; above, each signature costs more than its share."""
MIN_EXPONENT, MAX_EXPONENT = 65537, 2**32

Keys = Mapping[str, rsa.RSAPublicKey]
"""Public keys by their ids."""


def keys_of(raw: bytes) -> Keys:
    """The usable keys of a document, by id. Raises NotAToken when it is no key set, or has none."""
    listed = json_object(raw, "key set").get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise NotAToken(f"the key set has no list `keys` of at most {MAX_KEYS}")
    jwks = [jwk for jwk in listed if isinstance(jwk, dict) and _is_kid(jwk.get("kid"))]
    often = Counter(jwk["kid"] for jwk in jwks)
    keys = {jwk["kid"]: key for jwk in jwks if often[jwk["kid"]] == 1 and (key := _key(jwk)) is not None}
    if not keys:
        raise NotAToken(f"none of the key set's {len(listed)} keys can be used (RSA for {ALGORITHM}, with a kid)")
    return keys


def numbers(keys: Keys) -> Mapping[str, tuple[int, int]]:
    """The numbers by which two key sets are compared."""
    return {kid: (key.public_numbers().n, key.public_numbers().e) for kid, key in keys.items()}


def mark(key: rsa.RSAPublicKey) -> int:
    """A number that is the same for the same key. Only an issuer could make two of its keys share one."""
    numbers = key.public_numbers()
    return hash((numbers.n, numbers.e))


def _is_kid(kid: object) -> bool:
    return isinstance(kid, str) and 0 < len(kid) <= MAX_KID


def _key(jwk: Mapping[str, Any]) -> rsa.RSAPublicKey | None:
    if jwk.get("kty") != "RSA" or jwk.get("use", "sig") != "sig" or jwk.get("alg", ALGORITHM) != ALGORITHM:
        return None
    if "key_ops" in jwk and jwk["key_ops"] != ["verify"]:
        return None
    try:
        n, e = _number(jwk.get("n")), _number(jwk.get("e"))
        if not (MIN_BITS <= n.bit_length() <= MAX_BITS and n % 2 and MIN_EXPONENT <= e < MAX_EXPONENT and e % 2):
            return None
        return rsa.RSAPublicNumbers(e, n).public_key()
    except (NotAToken, ValueError):
        return None


def _number(text: object) -> int:
    """A number in base64url (RFC 7518 §2, Base64urlUInt)."""
    if not isinstance(text, str) or not text.isascii():
        raise NotAToken("it is no number")
    return int.from_bytes(decoded(text.encode(), "number"))
