"""The control socket: what a bad question does, and what a lost state directory does."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness import Backend, Gateway, Home, eventually
from keyswap.cli import main

Start = Callable[..., Gateway]


def ask(home: Home, question: bytes) -> object:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(10)
        asking.connect(str(home.state / "control.sock"))
        asking.sendall(question)
        with asking.makefile("rb") as answer:
            return json.loads(answer.readline())


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that is asked bad questions."""
    home = Home(tmp_path_factory.mktemp("asked"), "http://127.0.0.1:9")
    gateway = Gateway(home, "serve")
    try:
        yield gateway.ready()
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    "question",
    [b"\n", b"nonsense\n", b"[]\n", b"{}\n", b'{"command": []}\n', b'{"command": "explain"}\n', b'{"command": "x"}\n',
     b'{"command": "explain", "method": 1, "path": 2}\n', b"\xff\n", b"x" * 200_000 + b"\n", b"[" * 50_000 + b"\n", b'{"command": ' + b"[" * 50_000 + b"\n"],
    ids=range(12),
)  # fmt: skip
def test_a_bad_question_is_answered_with_an_error(question: bytes, asked: Gateway) -> None:
    """Whatever is asked, the answer is an error without a traceback, and the next question is answered."""
    answer = ask(asked.home, question)
    assert isinstance(answer, dict) and set(answer) == {"error"}
    assert asked.home.json("status")["running"] is True
    assert "Traceback" not in asked.output


@pytest.mark.parametrize("answer", [b"5", b"null", b"[]", b"{}", b'"x"', b"[" * 100_000, b"nonsense", b"", b"1" * 5000])
@pytest.mark.parametrize("words", [("status",), ("explain", "GET", "/"), ("limits", "list")])
def test_an_answer_that_is_none_is_one_line(
    answer: bytes,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command that gets nonsense from whoever holds the socket ends with 3 and one line that says what to do."""
    home = Home(tmp_path, "http://127.0.0.1:9")

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                with listening.accept()[0] as asking:
                    asking.recv(65536)
                    asking.sendall(answer + b"\n")

    monkeypatch.chdir(home.state)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("control.sock")
        listening.listen()
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        given = ["keyswap", *words, "--state", str(home.state), "--policy", str(home.policy)]
        monkeypatch.setattr("sys.argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
        listening.shutdown(socket.SHUT_RDWR)
    assert ended.value.code == 3 and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_lost_state_directory(start: Start, home: Home, backend: Backend) -> None:
    """With the state directory gone everything is refused, and policies are still watched, with few log lines."""
    _, value = home.key()
    gateway = start("serve").ready()
    assert gateway.get("/", value).status == 200
    shutil.rmtree(home.state)
    eventually("cached keys are refused", lambda: gateway.get("/", value).code == "store-unavailable", 1.0)
    before = backend.count
    home.policy.write_text("nonsense: [")
    eventually("the policy is watched", lambda: "the old policy stays in force" in gateway.output)
    others = [line for line in gateway.output.splitlines() if not line.startswith("{")]
    assert backend.count == before and "Traceback" not in gateway.output and len(others) < 10
