"""The options of `keyswap serve`, as they are handed from process to process.

Law: it holds no secret, since a command line can be read by every user of the machine.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyswap import host_port
from keyswap.model import Upstream

PROXY = "keyswap.shell.serve.worker"
"""The module of a worker that carries requests itself."""


@dataclass(frozen=True, slots=True)
class Start:
    """The options of `serve`. `grace_s` is how long requests have to end at a stop."""

    policy: Path
    state: Path
    upstream: Upstream | None
    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None
    workers: int = 1
    grace_s: float = 30.0
    web_port: int = 8081
    unix: Path | None = None
    """Where an authorizer listens in the file system; None: at `host` and `port`."""
    program: str = PROXY
    """The module that its workers run."""
    engine: Path | None = None
    """The folder in which an engine of ours meets its workers; None: there is none."""
    kept: tuple[int, int] | None = None
    """The number and the handle of its file of places in flight, where those outlive a worker."""
    generation: int = 0
    """How many engines have ended before it was started."""
    number: int = 0
    """Which of the processes it is: the workers first, then the proxies."""
    proxies: int = 0
    """How many processes behind an engine carry what it cannot judge to its end."""

    @property
    def listen(self) -> str:
        """The address to listen on: HOST:PORT, or unix:PATH."""
        return f"unix:{self.unix}" if self.unix is not None else host_port.joined(self.host, self.port)

    @property
    def callers_address(self) -> str:
        """Where callers connect: an engine's HOST:PORT, else the address to listen on."""
        return host_port.joined(self.host, self.port) if self.engine is not None else self.listen

    @property
    def processes(self) -> int:
        """How many processes are one gateway."""
        return self.workers + self.proxies

    def as_json(self) -> str:
        """For a worker's command line: no secret is in it."""
        return json.dumps({**asdict(self), "upstream": self.upstream}, default=os.fspath)

    @classmethod
    def of(cls, text: str) -> "Start":
        """The options that `as_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        paths = {name: Path(values[name]) for name in _PATHS if values[name]}
        upstream = Upstream(*values["upstream"]) if values["upstream"] else None
        kept = tuple(values["kept"]) if values["kept"] else None
        return cls(**{**values, **paths, "upstream": upstream, "kept": kept})


_PATHS = ("policy", "state", "tls_cert", "tls_key", "unix", "engine")


def ready_line(listen: str, admin: str | None, workers: int) -> str:
    """The line on standard output when connections are accepted (CONTRACT §2)."""
    return json.dumps({"event": "ready", "listen": listen, "admin": admin, "workers": workers})
