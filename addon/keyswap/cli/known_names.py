"""What the gateway knows that keys may name: its plans, and the permissions that operations require.

Law: a plan or permission that nothing knows is said to whoever writes it into a key, and is written all the same: the
policy may come to know it, or a backend judge it.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import click

from keyswap import policy as policies
from keyswap.cli.output import Setting, printable
from keyswap.model import StateError, Upstream
from keyswap.shell.control import control_socket


class Known(NamedTuple):
    """Plans, and required permissions (empty: no operation requires any); `running`: a gateway runs."""

    policy: str
    plans: Collection[str]
    permissions: Collection[str]
    documents: str
    running: bool


def known(setting: Setting) -> Known | None:
    """What the running gateway knows, else what the policy and its files say; None: neither can be asked."""
    try:
        answer = control_socket.ask(setting.state, {"command": "known"})
        running = answer is not None
        if answer is not None:
            return _known_from(answer, running)
    except StateError:
        running = True  # and does not say, or is of another version
    try:
        policy = policies.load(setting.policy) if setting.policy.exists() else None
        if policy is None or not policy.apis or any("://" in api.spec for api in policy.apis):
            return None if policy is None else Known(str(setting.policy), policy.plans, (), "", running)
        from keyswap.composition.build_gate import (
            catalogue,  # who asks a gateway, or has no document, does without these
        )
        from keyswap.operations.openapi.document_cache import Documents
        from keyswap.shell.control.status import known as names_of

        upstream = Upstream("http", "unknown.invalid", 80)
        operations = catalogue(policy, Documents(None), setting.policy.parent, upstream)
    except StateError:
        return None
    return _known_from(names_of(policy, operations, setting.policy), running)


def _known_from(answer: Mapping[str, Any], running: bool) -> Known:
    """What was told, as far as it is needed. Raises StateError."""
    plans, permissions = answer["plans"], answer["permissions"]
    if not isinstance(plans, list) or not isinstance(permissions, list):
        raise StateError(control_socket.STRANGE)
    return Known(str(answer["policy"]), {*map(str, plans)}, {*map(str, permissions)}, str(answer["documents"]), running)


def near(word: str, known: Iterable[str]) -> str:
    """`: did you mean …?`, where something like it is known."""
    close = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.7)
    return f": did you mean {printable(' or '.join(close))}?" if close else ""


def note(known: Known | None, plans: Iterable[str | None], permissions: Iterable[str]) -> None:
    """Say which of a key's plans and permissions nothing knows."""
    if known is None:
        return
    for plan in sorted({plan for plan in plans if plan is not None and plan not in known.plans}):
        meant = near(plan, known.plans) or ": such a key has the limits of everybody"
        click.echo(f"{known.policy} has no plan {printable(plan)}{meant}", err=True)
    for slug in sorted({slug for slug in permissions if known.permissions and slug not in known.permissions}):
        meant = near(slug, known.permissions)
        click.echo(f"no operation of {known.documents} requires {printable(slug)}{meant}", err=True)


def unknown_to(
    policy: "policies.Policy", required: Collection[str], tallied: Iterable[tuple[str | None, tuple[str, ...], int]]
) -> tuple[dict[str, int], dict[str, int]]:
    """How many keys have each plan and each permission that nothing knows; keys come by plan and permissions."""
    plans: dict[str, int] = {}
    slugs: dict[str, int] = {}
    for plan, permissions, count in tallied:
        if plan is not None and plan not in policy.plans:
            plans[plan] = plans.get(plan, 0) + count
        for slug in permissions if required else ():
            if slug not in required:
                slugs[slug] = slugs.get(slug, 0) + count
    return plans, slugs
