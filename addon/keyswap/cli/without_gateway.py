"""The gate built from policy and state directory alone, for commands while no gateway runs.

Law: nothing is made in the state directory unless the command changes something.
"""

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

from keyswap import policy as policies
from keyswap.cli.existing_state import existing
from keyswap.cli.output import Setting
from keyswap.model import StateError, Upstream
from keyswap.state import StateDirectory

if TYPE_CHECKING:
    from keyswap.composition.build_gate import Built
    from keyswap.composition.resources import Resources


def without_gateway(
    setting: Setting, use: Callable[["Built", "Resources"], dict[str, Any]], changes: bool = False
) -> dict[str, Any]:
    """The result of `use` with a gate of policy and state directory; `changes`: it changes something there.

    The modules that build a gate are imported here: other commands do not wait for them.
    """
    from keyswap.cli.state_snapshot import glanced
    from keyswap.composition.build_gate import build
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
        return use(built, resources)
