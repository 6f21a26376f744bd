"""What an authorizer answers when something in it breaks."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness import Home
from keyswap.model import Headers
from keyswap.refusals import Answer
from keyswap.request.engine_question import UNAVAILABLE, WORKER
from keyswap.request.forward_auth import Question
from keyswap.shell.authz.authorizer import Authorizer
from keyswap.shell.authz.engine_answers import EngineAnswers
from keyswap.shell.authz.exchanges import Exchanges
from keyswap.shell.authz.places_journal import PlacesJournal
from keyswap.shell.runtime.runtime import Runtime


async def _broken(*_: Any) -> Any:
    raise RuntimeError("a bug")


def answered(home: Home, target: bytes, engine: bool) -> Answer:
    """What a question is answered while the signing keys cannot be looked at, and a gate cannot decide."""

    async def ask() -> Answer:
        runtime = Runtime(home.policy, home.state, None, terminal=False, alone=False)
        await runtime.begin(list)
        answers = EngineAnswers(runtime, Exchanges(runtime.record, PlacesJournal(home.folder / "places")), 0)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(runtime.signing), "current", _broken)
            patched.setattr(answers, "answer", _broken)
            patched.setattr(Authorizer, "_judge", _broken)
            fields: Headers = ((b"host", b"a"), (b"x-envoy-internal", b"true"))
            if target.startswith(b"/.well-known"):
                fields = fields[:1]
            question = Question(b"GET", target, fields)
            reply = await Authorizer(runtime, answers if engine else None).answer(question, is_trusted=True)
        await runtime.end()
        return reply

    return asyncio.run(ask())


@pytest.mark.parametrize("engine", [False, True])
def test_an_exception_is_503_however_it_is_said(tmp_path: Path, engine: bool) -> None:
    """A bug lets nothing on: its answer is 503, to an engine as the refusal that it passes on with this status, and on an
    own path as what it is."""
    home = Home(tmp_path, "http://127.0.0.1:9")
    own = answered(home, b"/.well-known/jwks.json", engine)
    assert own.status == 503 and b"gateway-unavailable" in own.body
    asked = answered(home, b"/.keyswap/engine/x" if engine else b"/.keyswap/envoy/x", engine)
    assert b"gateway-unavailable" in asked.body and asked.status == (403 if engine else 503)
    assert ((WORKER, UNAVAILABLE) in asked.headers) == engine
