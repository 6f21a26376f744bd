"""The state directory of a command that only changes what is there already.

Law: such a command makes none. In a new one it would end nothing: a key that is blocked there goes on everywhere else.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path

from keyswap.cli.output import Setting, again
from keyswap.model import StateError
from keyswap.state import StateDirectory, default_state


def existing(setting: Setting) -> StateDirectory:
    """The state directory, which a gateway or a key has made. Raises StateError, naming the one that may be meant."""
    state = StateDirectory(setting.state)
    if setting.state.is_dir():
        state.seen()
    if state.is_made():
        return state.open()
    near = next(_others(setting.state), None)
    meant = f"there is one at {near}" if near else "name the one that the gateway runs with"
    raise StateError(
        f"nothing was changed, since there is no state of a gateway in {setting.state}: is --state mistyped? {meant}: "
        f"{again(state=str(near or 'DIRECTORY'))}"
    )


def _others(path: Path) -> Iterator[Path]:
    """State directories that may be meant: beside it, the most alike first, and the one that is used unless named."""
    try:
        beside = {one.name: one for one in path.absolute().parent.iterdir() if one != path.absolute()}
    except OSError:
        beside = {}
    alike = [beside[name] for name in difflib.get_close_matches(path.name, beside, n=9)]
    for one in (*alike, default_state()):
        if StateDirectory(one).is_made():
            yield one
