"""`keyswap limits`: how full limits are, and emptying them.

Law: what is listed and emptied is what the running gateway counts; without one, what lies in the policy's store.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from keyswap import audit
from keyswap.cli.output import Setting, common, span
from keyswap.cli.without_gateway import without_gateway
from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.model import StateError
from keyswap.shell.control import control_socket

if TYPE_CHECKING:
    from keyswap.composition.build_gate import Built
    from keyswap.composition.resources import Resources


@click.group()
def limits() -> None:
    """Rate limits, quotas and places in flight: list, reset."""


@limits.command("list")
@click.option("--key", metavar="ID", help="Only those that count this key.")
@click.option("--org", help="Only those that count this organization.")
@common
def list_(setting: Setting, key: str | None, org: str | None) -> None:
    """Every bucket that is not empty."""
    answer = _asked(setting, "limits list", {"key": key, "org": org}, "limits_listed")
    rows = [
        (
            one["limit"],
            ", ".join(f"{name} {value}" for name, value in one["by"].items()),
            f"{one['level']} of {one['capacity']}",
            one["remaining"],
            span(one["full_in_s"]),
        )
        for one in answer["data"]
    ]
    setting.table(answer, ("limit", "of", "level", "remaining", "all there in"), rows)


@limits.command()
@click.option("--key", metavar="ID", help="Those that count this key.")
@click.option("--org", help="Those that count this organization.")
@common
def reset(setting: Setting, key: str | None, org: str | None) -> None:
    """Empty the buckets of a key or an organization; what is in flight stays so."""
    if key is None and org is None:
        raise click.UsageError("say whose: --key ID or --org ORG")
    answer = _asked(setting, "limits reset", {"key": key, "org": org}, "limits_reset", changes=True)
    audit.changed(setting.state, "cli", "limits.reset", key or org, key=key, org=org, count=answer["reset"])
    setting.print(answer, f"{answer['reset']} emptied")


def _asked(
    setting: Setting, command: str, options: dict[str, Any], function: str, changes: bool = False
) -> dict[str, Any]:
    answer = control_socket.ask(setting.state, {"command": command, **options})
    if answer is not None:
        return answer

    async def alone(built: "Built", resources: "Resources") -> dict[str, Any]:
        from keyswap.shell.control import limits as counted

        try:
            answer: dict[str, Any] = await getattr(counted, function)(built, options, time.time())
            return answer
        except LimitStoreUnavailable as error:
            raise StateError(f"the limit store can't be asked: {error}") from error
        finally:
            await resources.release()

    return without_gateway(setting, lambda built, resources: asyncio.run(alone(built, resources)), changes)
