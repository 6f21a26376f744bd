"""WorkOS' webhooks: an event that is delivered instead of being asked for.

Law: pure but for the recording, which is handed in. Nothing of a body is read before its signature holds: `t=<ms>,
v1=<hex>`, HMAC-SHA256 of `<t>.<body>` under the endpoint's secret, not more than 180 s old or ahead. What is answered
2xx was recorded, by this delivery or an earlier one, or means nothing; WorkOS delivers everything else again.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keyswap import strict_json
from keyswap.model import StateError
from keyswap.workos.change_feed import Change
from keyswap.workos.events import read

logger = logging.getLogger(__name__)

PATH = b"/.well-known/keyswap/webhooks/workos"
HEADER = b"workos-signature"
MAX_BODY = 1 << 20
TOLERANCE_S = 180
_TIME = re.compile(r"[1-9][0-9]{0,15}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_SIGNATURES = 10

Record = Callable[[str, Sequence[Change], float], bool]
"""`ChangeFeed.record`. It waits for a disk: not to be called where requests are served."""


class Refused(Exception):
    """A delivery that is not taken; its text is for the log, and holds nothing of the body."""


class Answered(NamedTuple):
    """What a delivery is answered."""

    status: int
    """200, 400, 413 or 503."""
    reason: str


def answer_webhook(body: bytes, header: str | None, secrets: Sequence[str], record: Record, now: float) -> Answered:
    """Take a delivery. `header`: WorkOS-Signature, several joined by commas; `now`: epoch seconds."""
    if len(body) > MAX_BODY:
        return Answered(413, f"more than {MAX_BODY} bytes")
    try:
        verify(body, header, secrets, now)
        event = read(_parsed(body), now)
    except Refused as error:
        return Answered(400, str(error))
    if event is None:
        return Answered(400, "it is no event: it has no id")
    if event.fault is not None:
        logger.warning("an event of WorkOS is not shaped as it should be: %s (%s)", event.id, event.fault)
    if not event.changes:
        return Answered(200, "it means nothing here")
    try:
        new = record(event.id, event.changes, now)
    except StateError as error:
        return Answered(503, str(error))
    return Answered(200, "recorded" if new else "recorded before")


def verify(body: bytes, header: str | None, secrets: Sequence[str], now: float) -> None:
    """Prove that WorkOS signed this body just now under one of the secrets. Raises Refused."""
    time, signatures = _signed(header)
    if abs(now * 1000 - int(time)) > TOLERANCE_S * 1000:
        raise Refused("the signature is too old or of the future: is this machine's clock right?")
    good = False
    for secret in secrets:
        if not secret:
            continue  # a key that everybody knows
        expected = hmac.new(secret.encode(), time.encode() + b"." + body, hashlib.sha256).hexdigest()
        for signature in signatures:
            good |= hmac.compare_digest(expected, signature)
    if not good:
        raise Refused("the signature is not by this endpoint's secret")


def _signed(header: str | None) -> tuple[str, list[str]]:
    """The time and the signatures. Other names than t and v1 are another version's, and ignored."""
    if not header:
        raise Refused("there is no WorkOS-Signature")
    parts = [part.strip(" ").partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    signatures = [value for name, _, value in parts if name == "v1"]
    if not all(equals for _, equals, _ in parts) or len(times) != 1 or not _TIME.fullmatch(times[0]):
        raise Refused("WorkOS-Signature needs one t, in milliseconds")
    if not 1 <= len(signatures) <= _MOST_SIGNATURES or not all(map(_DIGEST.fullmatch, signatures)):
        raise Refused("WorkOS-Signature needs a v1 of 64 hex digits")
    return times[0], signatures


def _parsed(body: bytes) -> Any:
    try:
        return strict_json.loads(body.decode())
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON, or has a name twice") from None
