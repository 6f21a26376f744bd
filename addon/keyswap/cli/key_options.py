"""The options that describe a key, and the values they stand for.

Law: an option that was not given changes nothing.
"""

from collections.abc import Callable
from typing import Any

import click

from keyswap import policy as policies


class Span(click.ParamType[float]):
    """A length of time, like 30d, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it."""
        try:
            return value if isinstance(value, float) else policies.seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def described(command: Callable[..., None]) -> Callable[..., None]:
    """The options that describe a key."""
    for option in reversed(
        (
            click.option("--org", metavar="ORG", help="The organization it belongs to."),
            click.option(
                "--user", metavar="USER", help="The user it acts for; without one it is the organization's own."
            ),
            click.option("--name", metavar="NAME", help="What people call it."),
            click.option("--permission", "permissions", multiple=True, metavar="SLUG", help="Once for each."),
            click.option("--role", "roles", multiple=True, metavar="SLUG", help="Once for each."),
            click.option("--plan", metavar="NAME", help="The plan whose limits it has."),
            click.option("--expires-in", type=Span(), metavar="30d", help="How long it is good for; default: no end."),
            click.option("--allow-ip", multiple=True, metavar="CIDR", help="Only from there. May be given many times."),
        )
    ):
        command = option(command)
    return command


def changes(now: float, org: str | None, user: str | None, expires_in: float | None, **given: Any) -> dict[str, Any]:
    """The options that were given, as the ledger calls them."""
    named = {
        "org_id": org,
        "user_id": user,
        "expires_at": None if expires_in is None else int(now + expires_in),
        **given,
    }
    return {name: value for name, value in named.items() if value not in (None, ())}


CLEARED: dict[str, tuple[str, Any]] = {
    "user": ("user_id", None),
    "permissions": ("permissions", ()),
    "roles": ("roles", ()),
    "plan": ("plan", None),
    "expiry": ("expires_at", None),
    "allow-ip": ("allow_ip", ()),
}
"""Fields that can be cleared: the ledger's name of each, and its empty value."""
