"""`authz`: the gate for a proxy that asks it about each request.

Law: as `serve`'s.
"""

import asyncio
import os
from pathlib import Path

import click

from keyswap import host_port
from keyswap.cli.output import Setting, common
from keyswap.cli.serve import cores, grace_of, open_standard_streams, serving, upstream_of
from keyswap.shell.serve.settings import Start
from keyswap.state import StateDirectory

PROGRAM = "keyswap.shell.serve.authz_worker"
MAX_PATH = 100
"""Bytes of a socket's path: systems take 104 to 108."""


def _listen(text: str | None, state: Path) -> tuple[str, int, Path | None]:
    """Host and port, or a path."""
    if text is None:
        text = f"unix:{state / 'authz.sock'}"
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:")).absolute()
        if len(os.fsencode(path)) > MAX_PATH:
            raise click.BadParameter(f"{path} is longer than the {MAX_PATH} bytes that a socket's path may have")
        return "", 0, path
    try:
        return *host_port.split(text), None
    except ValueError:
        raise click.BadParameter(f"{text!r} is no HOST:PORT, like 127.0.0.1:9191, and no unix:PATH") from None


def authz_address(text: str | None, state: Path) -> str:
    """Where an authorizer listens, as `--listen` says it: `unix:PATH` with the whole path, or HOST:PORT."""
    host, port, unix = _listen(text, state)
    return f"unix:{unix}" if unix is not None else host_port.joined(host, port)


@click.command()
@click.option("--upstream", metavar="URL", help="The backend; wins over the policy's.")
@click.option("--listen", metavar="ADDRESS", help="HOST:PORT or unix:PATH. Default: unix:STATE/authz.sock.")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Processes that answer. Default: the cores.")
@click.option("--grace", default="30s", show_default=True, metavar="TIME", help="How long questions have at a stop.")
@common
def authz(setting: Setting, upstream: str | None, listen: str | None, workers: int | None, grace: str) -> None:
    """Answer the questions of Envoy (ext_authz), nginx (auth_request), Caddy and Traefik (forward auth)."""
    state = StateDirectory(setting.state).open().path.absolute()
    host, port, unix = _listen(listen, state)
    start = Start(
        setting.policy.absolute(),
        state,
        upstream_of(upstream),
        host,
        port,
        workers=workers or cores(),
        grace_s=grace_of(grace),
        unix=unix,
        program=PROGRAM,
    )
    open_standard_streams()
    asyncio.run(serving(False)(start))
