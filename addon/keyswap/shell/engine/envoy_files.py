"""The files of configuration that Envoy follows: what all policies that may decide need, as it is needed.

Law: Envoy has a whole configuration or the one before: a file is moved to its place, and put back where Envoy rejects
it, or does not take it in time. What a policy needs is there before the policy is in force, and stays while requests
that it has admitted are on their way.
"""

import asyncio
import json
import os
import time
from contextlib import suppress
from typing import Any

from keyswap import host_port
from keyswap.model import StateError
from keyswap.shell.engine.envoy_admin import EnvoyAdmin
from keyswap.shell.engine.envoy_config import CONNECTIONS, bootstrap, clusters, discovery, listener
from keyswap.shell.engine.envoy_routes import route_table
from keyswap.shell.engine.needs import EngineNeeds, together
from keyswap.shell.engine.run_folder import RunFolder

FILES_EACH = 3
"""Files for each caller's connection: its own, one to a backend, and its share of what else Envoy has open."""
TAKE_S = 10.0
"""How long Envoy may take to follow a change."""
_WHERE = {
    "clusters": "cluster_manager.cds",
    "routes": "http.keyswap.rds",
    "listener": "listener_manager.lds",
}
"""Where its counters say what it has taken of a file."""


class EnvoyFiles:
    """The configuration of one Envoy."""

    def __init__(self, folder: RunFolder, admin: EnvoyAdmin, listen: tuple[str, int], workers: int, files: int) -> None:
        """`files`: how many Envoy may have open."""
        self._folder, self._admin, self.listen, self._workers = folder, admin, listen, workers
        self._connections = min(CONNECTIONS, files // FILES_EACH)
        self._needs: dict[int, list[EngineNeeds]] = {}
        """By worker: those of its policy in force, and of the one before."""
        self._tls: tuple[str, str] | None = None
        self._written: dict[str, list[Any]] = {}
        """By file, what Envoy follows; empty before the start."""
        self._version = 0
        self._changing = asyncio.Lock()

    async def take(self, worker: int, needs: EngineNeeds, tls: tuple[str, str] | None) -> str | None:
        """Have Envoy do what a worker's policy needs, beside what is needed now; what is wrong if it does not."""
        async with self._changing:
            before, tls_before = self._needs.get(worker, []), self._tls
            self._needs[worker], self._tls = [*before[-1:], needs], tls
            try:
                if self._written:
                    await self._apply()
            except (OSError, StateError, ValueError) as error:
                self._needs[worker], self._tls = before, tls_before
                return f"Envoy has not taken what this policy needs: {error or type(error).__name__}"
            return None

    def write_first(self) -> None:
        """Write what Envoy starts with. Raises StateError."""
        try:
            for name, (kind, resources) in self._wanted().items():
                self._write(name, kind, resources)
                self._written[name] = resources
            self._put("envoy", json.dumps(bootstrap(self._folder, self._connections)).encode())
        except OSError as error:
            raise StateError(f"{self._folder.path} cannot hold Envoy's configuration: {error.strerror}") from error

    def pin(self, address: str | None) -> None:
        """Have an Envoy that is started in this one's place listen where this one does: its port may be new."""
        if address is not None and self.listen[1] == 0:
            self.listen = host_port.split(address)
            kind, resources = self._wanted()["listener"]
            text = json.dumps(discovery(kind, str(self._version), resources))
            self._folder.config("listener").write_text(text)  # not moved to its place: this one does not read it
            self._written["listener"] = resources

    def _wanted(self) -> dict[str, tuple[str, list[Any]]]:
        """By file: the kind of its resources, and these; in the order in which Envoy is to take them."""
        needs = together([one for every in self._needs.values() for one in every])
        return {
            "clusters": ("cluster.v3.Cluster", clusters(self._folder, needs, self._workers, os.environ)),
            "routes": ("route.v3.RouteConfiguration", [route_table(needs, self._workers)]),
            "listener": (
                "listener.v3.Listener",
                [listener(self._folder, self.listen, needs, self._workers, self._tls)],
            ),
        }

    async def _apply(self) -> None:
        """Have Envoy take what has changed. Raises OSError, StateError: it has what it had."""
        for name, (kind, resources) in self._wanted().items():
            if self._written.get(name) == resources:
                continue
            before = self._folder.config(name).read_bytes()
            try:
                rejected = await self._rejections(_WHERE[name])
                await self._taken(name, self._write(name, kind, resources), rejected)
            except (OSError, StateError):
                self._put(name, before)
                raise
            self._written[name] = resources

    def _write(self, name: str, kind: str, resources: list[Any]) -> str:
        """Write a file that Envoy follows; its version. Raises OSError."""
        self._version += 1
        version = str(self._version)
        self._put(name, json.dumps(discovery(kind, version, resources)).encode())
        return version

    def _put(self, name: str, content: bytes) -> None:
        """Move content to the place of a file: Envoy reads it then. Raises OSError."""
        file = self._folder.config(name)
        new = file.with_suffix(".new")
        with suppress(FileNotFoundError):
            new.unlink()
        with new.open("xb") as out:
            out.write(content)
        new.replace(file)

    async def _taken(self, name: str, version: str, rejected: int) -> None:
        """Wait until Envoy has taken this version. `rejected`: how many it had rejected. Raises StateError, OSError."""
        deadline = time.monotonic() + TAKE_S
        while time.monotonic() < deadline:
            stats = await self._admin.stats(_WHERE[name])
            if any(key.endswith("version_text") and value == version for key, value in stats.items()):
                return
            if _rejections(stats) > rejected:
                raise StateError(f"it rejects the {name}")
            await asyncio.sleep(0.005)
        raise StateError(f"it did not take the {name} in {TAKE_S:g} s")

    async def _rejections(self, where: str) -> int:
        return _rejections(await self._admin.stats(where))


def _rejections(stats: dict[str, str]) -> int:
    return sum(int(value) for key, value in stats.items() if key.endswith("update_rejected"))
