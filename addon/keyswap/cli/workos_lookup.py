"""Keys that are at WorkOS, as commands see them.

Law: a key is sent to the WorkOS of the policy alone, and only where a person has asked for that.
"""

import asyncio
from pathlib import Path

import click

from keyswap import policy as policies
from keyswap.cli.output import Setting
from keyswap.keys.key import Key
from keyswap.model import StateError

WAIT_S = 10.0


def look_up(policy: "policies.Policy", file: Path, value: str) -> tuple[Key | None, str | None]:
    """The key at WorkOS that a value is, and its agent's registration; None: it is no good key. Raises StateError."""
    # What talks to WorkOS takes longer to import than other commands to run.
    from keyswap.composition.remote_identity import secret_of
    from keyswap.keys.workos import api_key
    from keyswap.workos.client import Rejected, Unreachable

    secret = secret_of(policy.workos.api_key_env, "api_key_env", file)
    try:
        answer = api_key.read(asyncio.run(_ask(policy, secret, value)))
    except Rejected as error:
        if error.status == 422:  # what WorkOS says to what cannot be a key
            return None, None
        raise StateError(f"WorkOS ({policy.workos.base_url}) refuses to say: {error.why}") from error
    except (Unreachable, api_key.Malformed) as error:
        raise StateError(f"WorkOS ({policy.workos.base_url}) gives no answer that can be used: {error}") from error
    if isinstance(answer, api_key.UnknownOwner):
        raise StateError(f"key {answer.key_id} has an owner of a type that is not known here: {answer.owner_type}")
    return (answer.key, answer.agent) if answer is not None else (None, None)


async def _ask(policy: "policies.Policy", secret: str, value: str) -> object:
    from keyswap.keys.workos.source import VALIDATIONS
    from keyswap.workos.client import WorkOSClient

    client = WorkOSClient(policy.workos.base_url, secret, WAIT_S, policy.workos.api_key_env)
    try:
        answer: object = await client.post(VALIDATIONS, {"value": value})
        return answer
    finally:
        await client.close()


def note(setting: Setting) -> None:
    """Say where the gateway looks for keys, to who makes one here all the same."""
    policy = policies.load(setting.policy) if setting.policy.exists() else None
    if policy is not None and policy.api_keys.source == "workos":
        click.echo(
            f"note: the policy takes keys from WorkOS ({policy.workos.base_url}): one that is made here is good there "
            "only if that is this gateway's own admin listener",
            err=True,
        )
