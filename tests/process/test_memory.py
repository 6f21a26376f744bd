"""What callers leave behind in the gateway's memory is bounded, whoever they are and however many connections they have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Gateway, Home
from raw import Recorder, connect, head, listen

MIB = 1 << 20


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Home:
    return Home(tmp_path_factory.mktemp("memory"), recorder.url)


def resident(gateway: Gateway) -> int:
    """Bytes of memory that the process has now."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS"))


def test_header_names_leave_nothing_behind(home: Home) -> None:
    """Callers without a key send 48 MB of header names, each another one: the gateway does not grow by a third of it."""
    gateway = Gateway(home, "serve").ready()
    try:
        with connect(gateway.port) as connection:
            for number in range(820):
                if number == 20:
                    before = resident(gateway)
                connection.sendall(head("GET", "/", None, f"X{number:05}{'x' * 60_000}: 1"))
                assert listen(connection, b"}").status == 401
        assert resident(gateway) - before < 16 * MIB
    finally:
        assert "Traceback" not in gateway.stop()
