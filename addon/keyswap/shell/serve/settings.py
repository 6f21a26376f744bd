"""What `keyswap serve` was told, as it is handed from process to process.

Law: it holds no secret, since a command line can be read by every user of the machine.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyswap.model import Upstream


@dataclass(frozen=True, slots=True)
class Start:
    """What `serve` was told. `grace_s` is how long requests have to end at a stop."""

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

    @property
    def listen(self) -> str:
        """The address that was asked for, as HOST:PORT."""
        return address(self.host, self.port)

    def as_json(self) -> str:
        """For a worker's command line: no secret is in it."""
        return json.dumps({**asdict(self), "upstream": self.upstream}, default=os.fspath)

    @classmethod
    def of(cls, text: str) -> "Start":
        """What `as_json` gave."""
        said: dict[str, Any] = json.loads(text)
        paths = {name: Path(said[name]) for name in ("policy", "state", "tls_cert", "tls_key") if said[name]}
        upstream = Upstream(*said["upstream"]) if said["upstream"] else None
        return cls(**{**said, **paths, "upstream": upstream})


def address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def ready_line(listen: str, admin: str | None, workers: int) -> str:
    """What is said on standard output when requests can come (CONTRACT §2)."""
    return json.dumps({"event": "ready", "listen": listen, "admin": admin, "workers": workers})
