"""A webhook of WorkOS, whatever carries it: its head, and its body once that is there.

Law: nobody has proven anything before the body is whole. An event is answered with 200 when it is on disk.
"""

import asyncio
import json
import time

from keyswap.model import WIRE, Code, Headers, Refuse
from keyswap.refusals import Answer, answer
from keyswap.shell.runtime.well_known import as_json
from keyswap.workos.change_feed import ChangeFeed
from keyswap.workos.webhook import HEADER, MAX_BODY, answer_webhook

_NONE = Refuse(Code.NO_SUCH_OPERATION, "the policy names no webhook_secret_env", step=WIRE)
_METHOD = Refuse(Code.METHOD_NOT_ALLOWED, "a webhook is sent with POST", allow=("POST",), step=WIRE)
_LARGE = Refuse(Code.BODY_TOO_LARGE, "a webhook's body is over 1 MiB", step=WIRE)
_CODES = {400: Code.INVALID_REQUEST, 413: Code.BODY_TOO_LARGE, 503: Code.STORE_UNAVAILABLE}


def refused_by_head(method: str, presented: Headers, length: int | None, secret: str | None) -> Refuse | None:
    """Why a webhook's head goes no further; None: its body, of `length` bytes if that is known, may come."""
    if secret is None:
        return _NONE
    if method != "POST":
        return _METHOD
    if length is not None and length > MAX_BODY:
        return _LARGE
    if signature_of(presented) is None:
        return Refuse(Code.INVALID_REQUEST, "a webhook has exactly one WorkOS-Signature", step=WIRE)
    return None


async def take(
    body: bytes, signature: bytes, secret: str, changes: ChangeFeed, request_id: str
) -> tuple[Answer, Refuse | None]:
    """The answer to a webhook whose body is whole, and the refusal that it is."""
    judged = await asyncio.to_thread(
        answer_webhook, body, signature.decode("latin-1"), [secret], changes.record, time.time()
    )
    if judged.status == 200:
        return as_json(json.dumps({"received": True}).encode(), request_id), None
    refused = Refuse(_CODES[judged.status], f"webhook: {judged.reason}", step=WIRE)
    return answer(refused, request_id), refused


def signature_of(presented: Headers) -> bytes | None:
    """The one signature of a webhook; None: there is none, or more than one."""
    signatures = [value for name, value in presented if name.lower() == HEADER]
    return signatures[0] if len(signatures) == 1 else None
