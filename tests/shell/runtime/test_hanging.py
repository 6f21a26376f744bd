"""A file system that hangs: what lies elsewhere is followed all the same."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certificates import self_signed
from harness import eventually
from keyswap import files
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.runtime import Runtime
from keyswap.state import Epochs, StateDirectory
from keyswap.tokens.keyring import Keyring
from tests.tokens.parts import NOW

POLICY = "version: 1\nissuer: http://127.0.0.1:8080\nupstream: http://127.0.0.1:9\nopenapi: {spec: away/api.yaml}\n"
DOCUMENT = "openapi: 3.1.0\npaths: {}\n"


@contextmanager
def hanging(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing below `folder` answers, for as long as the block lasts."""
    go_on, stat = threading.Event(), Path.stat

    def slow(path: Path, **how: bool) -> os.stat_result:
        if folder in path.parents:
            go_on.wait()
        return stat(path, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", slow)
        patched.setattr(files, "WAIT_S", 0.02)
        try:
            yield
        finally:
            go_on.set()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """One with a document below `away`, which follows a certificate."""
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "api.yaml").write_text(DOCUMENT)
    (tmp_path / "policy.yaml").write_text(POLICY)
    chain = self_signed(tmp_path, "gateway")
    certificate = Certificate(chain, chain.with_suffix(".key"))
    made = Runtime(tmp_path / "policy.yaml", tmp_path / "state", None, terminal=False, certificate=certificate)
    yield made
    made.active.log.finish()
    made.resources.close()


def test_a_document_that_hangs_leaves_the_rest_followed(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However long: it is told once, few threads wait, and certificate, signing keys and policy are taken as ever."""
    before = threading.active_count()
    other = self_signed(tmp_path, "other")

    async def scenario() -> None:
        for _ in range(3 * files.MOST_HUNG):
            await runtime.reloads.follow()
        assert threading.active_count() <= before + 8  # of which some are the executor's
        (told,) = [one.message for one in caplog.records if "cannot be seen" in one.message]
        assert str(tmp_path / "away" / "api.yaml") in told and (runtime.reloads.error or "none") in told
        (tmp_path / "gateway.pem").write_bytes(other.read_bytes())
        (tmp_path / "gateway.key").write_bytes(other.with_suffix(".key").read_bytes())
        await runtime.follow_certificate()
        assert caplog.records[-1].message.endswith("gateway.pem is in use")
        epochs = Epochs(runtime.resources.state)
        fresh = Keyring(StateDirectory(tmp_path / "state"), epochs).rotate_now("RS256", NOW)
        epochs.close()
        await runtime.signing.current()
        assert [key.kid for key in runtime.resources.keyring.keys] == [fresh.kid]
        (tmp_path / "policy.yaml").write_text(POLICY.replace("away/", ""))
        (tmp_path / "api.yaml").write_text(DOCUMENT)
        for _ in range(2):
            await runtime.reloads.follow()
        assert runtime.reloads.error is None and runtime.counts.reloads_taken == 1
        await runtime.reloads.follow()
        assert runtime.reloads.error is None, "what no policy names any more is left alone"
        await runtime.signing.end()

    with hanging(tmp_path / "away", monkeypatch):
        asyncio.run(scenario())
    eventually("no thread waits", lambda: threading.active_count() <= before)
