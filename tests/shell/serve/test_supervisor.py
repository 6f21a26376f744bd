"""The supervisor's corners that no fault from outside reaches reliably."""

import asyncio
import signal
import socket
from pathlib import Path

from keyswap.shell.serve.settings import Start
from keyswap.shell.serve.supervisor import Supervisor


def test_a_worker_started_during_a_stop_ends_at_once(tmp_path: Path) -> None:
    """The others were told to stop while it was starting: no message would reach it."""

    async def main() -> int:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            start = Start(tmp_path / "policy.yaml", tmp_path, None, "127.0.0.1", 0)
            supervisor = Supervisor(start, listening)
            supervisor.stop()
            worker = await supervisor._respawn(0)
            assert worker is not None
            await worker.read_events()
            return worker.process.returncode or 0

    assert asyncio.run(main()) == -signal.SIGKILL
