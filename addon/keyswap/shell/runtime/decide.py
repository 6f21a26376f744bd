"""What a gate decides, with a token of the signing keys that are in force when it has.

Law: what another process has changed of the keys is in force from the next request on, also where a step of this one
waited meanwhile.
"""

import time

from keyswap.gate import Gate
from keyswap.model import Admit, Decision, NeedBody, Refuse, Request
from keyswap.shell.runtime.signing_keys import Signing


async def decide(signing: Signing, gate: Gate, request: Request, now: float) -> Decision:
    """The decision on a request at `now` (epoch seconds)."""
    if signing.behind:
        await signing.current()
        now = time.time()
    decision = await gate.decide(request, now)
    if isinstance(decision, Admit) and decision.token is not None and signing.behind:
        return await _signed_anew(signing, gate, decision)  # a step waited: the key may have been dropped meanwhile
    return decision


async def resume(signing: Signing, gate: Gate, need: NeedBody, body: bytes) -> Admit | Refuse:
    """The decision on a request whose body is there."""
    if signing.behind:
        await signing.current()
    return await gate.resume(need, body, time.time())


async def _signed_anew(signing: Signing, gate: Gate, admit: Admit) -> Admit | Refuse:
    """The same decision, with a token of the keys that changed while it was made."""
    decision: Admit | Refuse | None = None
    try:
        await signing.current()
        decision = gate.minted(admit, time.time())
    finally:
        if not isinstance(decision, Admit):
            admit.counted.give_back()
    return decision
