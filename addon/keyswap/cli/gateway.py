"""`serve`, `explain`, `status`: the words about the gateway itself.

Law: what a running gateway can say is asked of it; without one these work on the state directory and say so.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyswap import host_port
from keyswap import policy as policies
from keyswap.cli.decisions import recalled
from keyswap.cli.existing_state import existing
from keyswap.cli.output import Setting, common, from_stdin, is_value, printable
from keyswap.model import StateError, Upstream
from keyswap.policy import parse_upstream, seconds
from keyswap.shell.control import control_socket
from keyswap.shell.serve.settings import Start
from keyswap.state import StateDirectory

if TYPE_CHECKING:
    from keyswap.composition.gate import Built
    from keyswap.composition.resources import Resources


def _listen(text: str) -> tuple[str, int]:
    try:
        return host_port.split(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no HOST:PORT, like 127.0.0.1:8080 or [::1]:8080") from None


class _Serve(click.Command):
    """The command that others' users give `--port`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As ever, but for what is said of that."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in {"--port", "--host", "--bind"}:
                text = f"no such option: {error.option_name}. Did you mean --listen HOST:PORT?"
                raise click.UsageError(text, ctx) from error
            raise


def _upstream(url: str | None) -> Upstream | None:
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
    grace: str,
) -> None:
    """Run the gateway; one JSON line says when it is ready."""
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together: give both, or neither")
    if web and workers not in {None, 1}:
        raise click.UsageError("--web looks at one process: leave --workers out")
    if web_port is not None and not web:
        raise click.UsageError("--web-port belongs to --web: give both")
    start = Start(
        setting.policy.absolute(),
        StateDirectory(setting.state).open().path.absolute(),
        _upstream(upstream),
        *_listen(listen),
        Path(tls_cert).absolute() if tls_cert else None,
        Path(tls_key).absolute() if tls_key else None,
        1 if web else workers or cores(),
        _grace(grace),
        8081 if web_port is None else web_port,
    )
    _open_standard_streams()
    asyncio.run(serving(web)(start))


def _open_standard_streams() -> None:
    """Whoever starts a daemon may have closed them: nothing else is to get their numbers, and lines meant for them."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


def serving(web: bool) -> Callable[[Start], Coroutine[Any, Any, None]]:
    """What serves. mitmproxy takes half a second to import: only who needs it waits."""
    if web:
        from keyswap.shell.serve import masters

        return masters.serve_web
    from keyswap.shell.serve import supervisor

    return supervisor.serve


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The processors that this process may use, rounded up; `quota` is a container's share (cgroup v2's cpu.max)."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        allowed, period = quota.read_text().split()
        if allowed != "max":
            found = min(found, -(-int(allowed) // int(period)))
    return max(1, found)


def _grace(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--grace") from error


@click.command()
@click.argument("method", required=False)
@click.argument("path", required=False)
@click.option("--key", metavar="ID|-", help="As the caller with this key; - reads its value from standard input.")
@click.option("--request-id", metavar="ID", help="The decision that was made on this request.")
@common
def explain(setting: Setting, method: str | None, path: str | None, key: str | None, request_id: str | None) -> None:
    """The decision on METHOD PATH, or on a request that was made, step by step; exits with 1 when it is no."""
    if request_id is not None and (method or path or key):
        raise click.UsageError("--request-id stands alone: what was asked, and by whom, is recorded")
    if request_id is not None:
        answer = recalled(setting, request_id)
    elif method and path:
        answer = _decided(setting, method, path, key)
    else:
        raise click.UsageError("give METHOD and PATH, or --request-id ID")
    _print_explanation(setting, setting.pasteable(answer))
    sys.exit(0 if answer["decision"] == "admit" else 1)


def _decided(setting: Setting, method: str, path: str, key: str | None) -> dict[str, Any]:
    """What the running gateway would decide now, or what one would."""
    if not path.startswith("/") and path != "*":
        raise click.UsageError("PATH begins with /, like /pets/42; a query may follow")
    if key is not None and is_value(key):
        raise click.UsageError("that is a key's value, which others see in the list of processes: pipe it to --key -")
    asked: dict[str, Any] = {"command": "explain", "method": method.upper(), "path": path}
    if key is not None:
        asked |= {"key": from_stdin()} if key == "-" else {"key_id": key}
    answer = control_socket.ask(setting.state, asked)
    if answer is None:
        answer = without_gateway(setting, lambda built, resources: asyncio.run(_explained(built, resources, asked)))
        click.echo("no gateway runs on this state directory: this is what one would decide", err=True)
    return answer


def _workers(told: dict[str, Any] | None) -> list[str]:
    """How many answer, of a gateway that has several, and those that do not serve the policy on disk."""
    if told is None:
        return []
    running = told["running"]
    behind = [str(one["pid"]) for one in running if one["error"]]
    return [
        f"workers   {len(running)} of {told['wanted']}, {told['restarts']} restarts"
        + (f"; NOT RELOADED: {', '.join(behind)}" if behind else "")
    ]


def _documents(told: list[dict[str, Any]]) -> Iterator[str]:
    """The documents in force, and where one could not be had again."""
    for one in told:
        yield f"document  {one['spec']}: {one['operations']} operations under {one['prefix'] or '/'}"
        if one["stale"]:
            yield f"          A KEPT COPY: {one['stale']}"


def _standing(limits: dict[str, Any]) -> str:
    """How a limit store is, where there is something to say."""
    if limits["healthy"]:
        return ""
    return f": {'' if limits['healthy'] is None else 'NOT ANSWERING, '}{printable(limits['reason'] or '')}"


def _known(keys: dict[str, Any]) -> str:
    """What knows the keys."""
    if keys["source"] == "sqlite":
        count = "cannot be counted" if keys["keys"] is None else keys["keys"]
        return f"{count} in {keys['database']}"
    return f"at WorkOS: {keys['cached']} remembered, {keys['refused']} refused, {keys['asking']} being asked for"


def _remote(answer: dict[str, Any]) -> Iterator[str]:
    """Issuers of sessions, and how what ends there is heard of."""
    for one in answer.get("sessions", ()):
        error = f": {printable(one['error'])}" if one.get("error") else ""
        yield f"sessions  {one['url']}: {one['keys']} keys{error}"
    events = answer.get("events")
    if events is not None:
        polling, changes = events["polling"], events["changes"]
        polled = "not polled" if polling is None else "polled"
        troubles = [one["reason"] for one in (polling, changes) if one is not None and one["reason"]]
        webhook = "a webhook" if events["webhook"] else "no webhook"
        yield f"events    {polled}, {webhook}" + "".join(f": {printable(why)}" for why in troubles)


async def _explained(built: "Built", resources: "Resources", asked: dict[str, Any]) -> dict[str, Any]:
    from keyswap.shell.control.explain import explained

    try:
        return await explained(built, asked, time.time())
    finally:
        await resources.release()


def _print_explanation(setting: Setting, answer: dict[str, Any]) -> None:
    marks = {"pass": "✓", "refuse": "✗", "skip": "·", "shadow": "~"}
    steps = [f"{marks[step['result']]} {step['step']:<11}{step['detail']}" for step in answer["steps"]]
    verdict = "admit" if answer["decision"] == "admit" else f"refuse {answer['status']} {answer['code']}"
    remedy = [f"remedy: {answer['remedy']}"] if answer["remedy"] else []
    setting.print(answer, *steps, verdict, *remedy)


@click.command()
@common
def status(setting: Setting) -> None:
    """What runs, what is enforced, and the state of the stores."""
    answer = control_socket.ask(setting.state, {"command": "status"})
    if answer is None:
        answer = without_gateway(setting, _standing_of)
        answer = {"running": False, **answer, "policy": {"file": str(setting.policy)}}
        if "database" in answer["keys"]:
            answer["keys"]["database"] = str(setting.state / "keys.db")
        if answer["limits"]["store"] != "local":
            answer["limits"] |= {"healthy": None, "reason": "no gateway runs that would ask it"}
    keys, tokens = answer["keys"], answer["tokens"]
    running = f"running, pid {answer['pid']}, on {', '.join(answer['listen'])}" if answer["running"] else "not running"
    admin = [f"admin     on {answer['admin']}"] if answer.get("admin") else []
    error = answer["policy"].get("reload_error")
    setting.print(
        answer,
        f"gateway   {running}",
        *_workers(answer.get("workers")),
        *admin,
        f"policy    {answer['policy']['file']}",
        *([f"          NOT RELOADED: {error}"] if error else ()),
        f"upstream  {answer['upstream']}",
        *_documents(answer["documents"]),
        f"limits    {answer['limits']['store']}{_standing(answer['limits'])}",
        f"shadowed  {', '.join(answer['shadowed']) or '-'}; off: {', '.join(answer['off']) or '-'}",
        f"tokens    {tokens['algorithm']}, {tokens['profile']}, {tokens['ttl_s']:g} s, issuer {answer['issuer']}",
        f"keys      {_known(keys)}" + ("" if keys["healthy"] else f": {printable(keys['reason'] or '')}"),
        *_remote(answer),
        *(f"signing   {key['kid']} {key['alg']} {key['state']}" for key in answer["signing"]),
    )


def _standing_of(built: "Built", _resources: "Resources") -> dict[str, Any]:
    from keyswap.shell.control.status import standing

    return standing(built, time.time())


def without_gateway(
    setting: Setting, use: Callable[["Built", "Resources"], dict[str, Any]], changes: bool = False
) -> dict[str, Any]:
    """What can be known from policy and state directory alone; nothing is made there unless `use` changes something.

    What builds a gate is imported by who needs one.
    """
    from keyswap.cli.state_snapshot import glanced
    from keyswap.composition.gate import build
    from keyswap.composition.resources import Resources

    there = existing(setting) if changes else StateDirectory(setting.state).seen()
    if not setting.policy.exists():
        raise StateError(
            f"no gateway runs on {setting.state}, and there is no policy {setting.policy}: name one by --policy"
        )
    policy = policies.load(setting.policy)
    directory = nullcontext(there) if changes else glanced(setting.state)
    with directory as state, closing(Resources(state)) as resources:
        nowhere = Upstream("http", "unknown.invalid", 80) if policy.upstream is None else None
        built = build(policy, resources, nowhere, time.time(), False, setting.policy)
        try:
            return use(built, resources)
        finally:
            resources.forget_uses()
