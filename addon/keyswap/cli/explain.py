"""`explain`: the decision on a request, step by step.

Law: the running gateway is asked; without one, this works on the state directory and says so.
"""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from keyswap.cli.decisions import recalled
from keyswap.cli.output import Setting, common, from_stdin, is_value
from keyswap.shell.control import control_socket

if TYPE_CHECKING:
    from keyswap.composition.build_gate import Built
    from keyswap.composition.resources import Resources
from keyswap.cli.without_gateway import without_gateway


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
    """The decision that the running gateway would make now; without one, that a gateway would make."""
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


async def _explained(built: "Built", resources: "Resources", command: dict[str, Any]) -> dict[str, Any]:
    from keyswap.shell.control.explain import explained

    try:
        return await explained(built, command, time.time())
    finally:
        await resources.release()


def _print_explanation(setting: Setting, answer: dict[str, Any]) -> None:
    marks = {"pass": "✓", "refuse": "✗", "skip": "·", "shadow": "~"}
    steps = [f"{marks[step['result']]} {step['step']:<11}{step['detail']}" for step in answer["steps"]]
    verdict = "admit" if answer["decision"] == "admit" else f"refuse {answer['status']} {answer['code']}"
    remedy = [f"remedy: {answer['remedy']}"] if answer["remedy"] else []
    setting.print(answer, *steps, verdict, *remedy)
