"""gRPC through `serve --engine envoy`: grpcio's client and server, neither changed."""

import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from harness import Gateway, Home, eventually
from raw import Http2, connect

if sys.platform != "linux":
    pytest.skip("Envoy's wheel is for Linux", allow_module_level=True)
import grpc  # type: ignore[import-untyped]

Start = Callable[..., Gateway]
POLICY = """openapi: {spec: api.yaml}
log: {decisions: decisions.jsonl, retain: 1000}
"""
DOCUMENT = """openapi: 3.1.0
paths:
  /talk.Talk/Say: {post: {x-required-permissions: [talk]}}
  /talk.Talk/Hear: {post: {x-required-permissions: [talk]}}
  /talk.Talk/Tell: {post: {x-required-permissions: [talk]}}
  /talk.Talk/Converse: {post: {x-required-permissions: [talk]}}
  /talk.Talk/Rule: {post: {x-required-permissions: [rule]}}
"""


class Talk:
    """A server that repeats what it is told, and keeps what it was told beside that."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        handlers = {
            "Say": grpc.unary_unary_rpc_method_handler(self._say),
            "Rule": grpc.unary_unary_rpc_method_handler(self._say),
            "Hear": grpc.unary_stream_rpc_method_handler(self._hear),
            "Tell": grpc.stream_unary_rpc_method_handler(self._tell),
            "Converse": grpc.stream_stream_rpc_method_handler(self._converse),
        }
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("talk.Talk", handlers)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _note(self, context: Any) -> None:
        self.metadata.append({name: str(value) for name, value in context.invocation_metadata()})

    def _say(self, said: bytes, context: Any) -> bytes:
        self._note(context)
        if said == b"fail":
            context.set_trailing_metadata((("x-why", "asked to"),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
        return said[::-1]

    def _hear(self, said: bytes, context: Any) -> Iterator[bytes]:
        self._note(context)
        for number in range(int(said)):
            yield b"%d" % number

    def _tell(self, said: Iterator[bytes], context: Any) -> bytes:
        self._note(context)
        return b",".join(said)

    def _converse(self, said: Iterator[bytes], context: Any) -> Iterator[bytes]:
        self._note(context)
        for word in said:
            yield word.upper()


@pytest.fixture
def talk() -> Iterator[Talk]:
    made = Talk()
    yield made
    made.server.stop(0).wait()


@pytest.fixture
def spoken(start: Start, tmp_path: Path, talk: Talk) -> Gateway:
    """A gateway before it."""
    home = Home(tmp_path, f"http://127.0.0.1:{talk.port}")
    (tmp_path / "api.yaml").write_text(DOCUMENT)
    home.write_policy(POLICY)
    return start("envoy", home=home).ready()


@contextmanager
def called(gateway: Gateway) -> Iterator[Any]:
    """A channel."""
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield channel


def test_all_kinds_of_calls_are_admitted(spoken: Gateway, talk: Talk) -> None:
    """Unary, streaming from either side and from both: what is said arrives, with the caller's token and no key; the
    server's own status and trailers reach the caller."""
    key, value = spoken.home.key(permissions=["talk"])
    more: dict[str, Any] = {"metadata": (("authorization", f"Bearer {value}"), ("x-user-id", "evil")), "timeout": 10}
    with called(spoken) as channel:
        assert channel.unary_unary("/talk.Talk/Say")(b"abc", **more) == b"cba"
        assert list(channel.unary_stream("/talk.Talk/Hear")(b"100", **more)) == [b"%d" % one for one in range(100)]
        assert channel.stream_unary("/talk.Talk/Tell")(iter([b"a", b"b"]), **more) == b"a,b"
        answers = channel.stream_stream("/talk.Talk/Converse")(iter([b"x", b"y"]), **more)
        assert list(answers) == [b"X", b"Y"]
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/talk.Talk/Say")(b"fail", **more)
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION and failed.value.details() == "as asked"
    assert dict(failed.value.trailing_metadata())["x-why"] == "asked to"
    keys = jwt.PyJWKSet.from_dict(spoken.get("/.well-known/jwks.json").json)
    assert len(talk.metadata) == 5
    for metadata in talk.metadata:
        token = metadata["authorization"].removeprefix("Bearer ")
        (signer,) = [one for one in keys.keys if one.key_id == jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(token, signer, ["RS256"], issuer=spoken.home.issuer)
        assert claims["api_key_id"] == key.id and "x-user-id" not in metadata and value not in str(metadata)


def test_a_conversation_goes_back_and_forth(spoken: Gateway) -> None:
    """Each word is answered before the next one is said: nothing waits for an end."""
    _, value = spoken.home.key(permissions=["talk"])
    heard: list[bytes] = []

    def words() -> Iterator[bytes]:
        for number in range(20):
            eventually("the word before was answered", lambda wanted=number: len(heard) == wanted)
            yield b"w%d" % number

    with called(spoken) as channel:
        metadata = (("authorization", f"Bearer {value}"),)
        for word in channel.stream_stream("/talk.Talk/Converse")(words(), metadata=metadata, timeout=30):
            heard.append(word)  # noqa: PERF402 (each is waited for)
    assert heard == [b"W%d" % number for number in range(20)]


@pytest.mark.parametrize(
    ("method", "has_key", "code"),
    [
        ("/talk.Talk/Say", False, grpc.StatusCode.UNAUTHENTICATED),
        ("/talk.Talk/Rule", True, grpc.StatusCode.PERMISSION_DENIED),
        ("/talk.Talk/None", True, grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_a_refusal_has_a_status_of_grpc(spoken: Gateway, talk: Talk, method: str, has_key: bool, code: Any) -> None:
    """Whatever kind of call is refused, its client hears so in its own words, and the server of none of them."""
    _, value = spoken.home.key(permissions=["talk"])
    metadata = (("authorization", f"Bearer {value}"),) if has_key else ()
    with called(spoken) as channel:
        for call in (
            lambda: channel.unary_unary(method)(b"abc", metadata=metadata, timeout=10),
            lambda: list(channel.stream_stream(method)(iter([b"x"]), metadata=metadata, timeout=10)),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is code, refused.value
    assert talk.metadata == []


def test_trailers_of_a_request_go_no_further(spoken: Gateway, talk: Talk) -> None:
    """Nobody judges them: an identity that a caller writes there reaches no server."""
    _, value = spoken.home.key(permissions=["talk"])
    with connect(spoken.port) as connection:
        caller = Http2(connection)  # type: ignore[arg-type]
        fields = (("content-type", "application/grpc"), ("te", "trailers"))
        stream = caller.ask("POST", "/talk.Talk/Say", value, *fields, ends=False)
        (number,) = caller.streams
        caller.h2.send_data(number, b"\0\0\0\0\3abc")
        caller.h2.send_headers(number, [("x-user-id", "evil"), ("authorization", f"Bearer {value}")], end_stream=True)
        caller.flush()
        caller.until(lambda: stream.ended)
    assert stream.status == 200 and stream.body.endswith(b"cba")
    (metadata,) = talk.metadata
    assert "evil" not in str(metadata) and value not in str(metadata)


def test_a_server_that_is_gone(spoken: Gateway, talk: Talk) -> None:
    """Its callers hear UNAVAILABLE."""
    _, value = spoken.home.key(permissions=["talk"])
    talk.server.stop(0).wait()
    with called(spoken) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/talk.Talk/Say")(b"abc", metadata=(("authorization", f"Bearer {value}"),), timeout=10)
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
