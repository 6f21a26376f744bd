"""One worker of `keyswap authz`: the gate and its listener, without mitmproxy.

Law: as every worker's (`worker_life`).
"""

import asyncio
import gc
import logging
import os
import signal
import socket
from typing import Any

import uvloop

from keyswap.limits.local.in_flight import KeptFile
from keyswap.shell.authz.authorizer import Authorizer
from keyswap.shell.authz.listener import QuestionListener
from keyswap.shell.authz.support import refuse_unsupported, refuse_unsupported_by_envoy
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.exceptions import report_unhandled
from keyswap.shell.runtime.runtime import Runtime
from keyswap.shell.serve import worker_life
from keyswap.shell.serve.engine_worker import EngineWorker
from keyswap.shell.serve.ipc import Channel
from keyswap.shell.serve.listen_socket import reject_new_connections
from keyswap.shell.serve.settings import Start

YOUNG = 10_000
"""Objects that are more than there were before what is young is looked through: at 700, that took 4 µs a question."""


class _Worker:
    """What is open, and its end. It is the listener that the supervisor opens."""

    def __init__(self, start: Start, listening: socket.socket, runtime: Runtime) -> None:
        self._listening, self._runtime, self._grace_s = listening, runtime, start.grace_s
        self.engine = EngineWorker(start, runtime) if start.engine is not None else None
        authorizer = Authorizer(runtime, self.engine.answers if self.engine is not None else None)
        self._questions = [QuestionListener(runtime, listening, authorizer)]
        if self.engine is not None:
            self._questions.append(QuestionListener(runtime, self.engine.listening, authorizer))
        self._stopping: asyncio.Task[None] | None = None
        self.stopped = asyncio.Event()

    async def open(self) -> None:
        """Accept connections, unless it stops."""
        if self._stopping is None:
            for questions in self._questions:
                await questions.open()

    def reject_new_connections(self) -> None:
        """Let no connection begin any more, in any process that shares the socket."""
        if self._listening.family != socket.AF_UNIX:
            reject_new_connections(self._listening)

    def stop(self, grace_s: float | None = None) -> None:
        """Stop with grace; a second time changes nothing."""
        self._grace_s = self._grace_s if grace_s is None else grace_s
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        self._runtime.stopping = True
        await asyncio.gather(*(questions.drain(self._grace_s) for questions in self._questions))
        self.stopped.set()


async def work(start: Start, listening: socket.socket, channel: Channel, resumes: bool) -> None:
    """Run until the stop. Raises StateError, before anything is accepted."""
    os.umask(0o077)
    gc.set_threshold(YOUNG)
    logging.getLogger().setLevel(logging.INFO)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_unhandled)
    certificate = Certificate(start.tls_cert, start.tls_key) if start.tls_cert and start.tls_key else None
    runtime = _runtime(start, certificate, resumes)
    worker = _Worker(start, listening, runtime)
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    others = worker.engine.hear if worker.engine is not None else _ignored
    following = loop.create_task(worker_life.follow(channel, runtime, worker.stop, worker, others))
    try:
        if worker.engine is not None:
            await worker.engine.begin(channel, certificate)
        await runtime.begin(lambda: [start.callers_address])
        channel.send({"event": "ready", "misplaced": runtime.misplaced if start.engine is not None else None})
        await worker.stopped.wait()
    finally:
        following.cancel()
        if worker.engine is not None:
            worker.engine.close()
        await runtime.end()


def _runtime(start: Start, certificate: Certificate | None, resumes: bool) -> Runtime:
    """The policy in force, and what goes on beside the questions. Raises StateError."""
    return Runtime(
        start.policy,
        start.state,
        start.upstream,
        terminal=True,
        certificate=certificate,
        alone=False,
        resumes=resumes,
        share=start.processes,
        kept=KeptFile(*start.kept) if start.kept is not None else None,
        unsupported=refuse_unsupported if start.engine is None else refuse_unsupported_by_envoy,
    )


def _ignored(_message: dict[str, Any]) -> None:
    """No engine, nothing to be heard of it."""


def main() -> int:
    """Be a worker; the exit code."""
    return worker_life.run(work, uvloop.new_event_loop)


if __name__ == "__main__":
    worker_life.leave(main())
