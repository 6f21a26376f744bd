"""`keyswap serve --engine envoy`: the supervisor of authorizers, with Envoy in front of them.

Law: as `serve`'s. Envoy is what listens: the workers are asked over sockets that are their owner's alone.
"""

import logging
import os
import sys
from dataclasses import replace

from keyswap.model import StateError
from keyswap.shell.engine.envoy import Envoy
from keyswap.shell.engine.envoy_program import envoy_program
from keyswap.shell.engine.run_folder import RunFolder
from keyswap.shell.serve.front import EngineFront
from keyswap.shell.serve.listen_socket import listen
from keyswap.shell.serve.settings import Start
from keyswap.shell.serve.supervisor import FORMAT, Supervisor

WORKER = "keyswap.shell.serve.authz_worker"


def proxies_of(start: Start) -> int:
    """How many processes carry what Envoy cannot judge to its end: WebSockets, event streams, judged responses."""
    return max(1, start.workers // 2)


async def serve(start: Start) -> None:
    """Run the gateway until it is told to stop. Raises StateError, before anything is accepted."""
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=FORMAT, datefmt="%H:%M:%S")
    program, version = envoy_program()
    listen(start).close()  # an address that cannot be had is said before anything is made
    folder = RunFolder.make()
    try:
        held = folder.hold()
        envoy = Envoy(program, version, folder, (start.host, start.port), start.workers, start.workers)
    except (OSError, StateError) as error:
        folder.remove()
        raise error if isinstance(error, StateError) else StateError(f"{folder.path}: {error.strerror}") from error
    try:
        start = replace(start, unix=folder.questions, engine=folder.path, program=WORKER, proxies=proxies_of(start))
        listening, proxied = listen(start), listen(replace(start, unix=folder.proxied))
        supervisor = Supervisor(start, listening, proxied)
        supervisor.front = EngineFront(listening, envoy, supervisor.tell, start.state)
        await supervisor.run()
    finally:
        envoy.close()
        os.close(held)
