"""How a method of mitmproxy's is changed: by functions that are given the method beneath them.

Law: which functions change a method, and in which order, is said at one call. `patch_table` has them all, but those
that `fast_paths` makes for `keyswap serve`.
"""

from collections.abc import Callable
from typing import Any


def patch(owner: type, name: str, *changes: Callable[..., Any]) -> None:
    """Change a method, by `change(original, self, …)`; the first of the changes is the outermost.

    Doing it again changes nothing.
    """
    if hasattr(vars(owner).get(name), "keyswap_beneath"):
        return
    method, originals = getattr(owner, name), dict[Callable[..., Any], Any]()
    for change in reversed(changes):
        originals[change] = method
        method = _changed(method, change)
    vars(method)["keyswap_beneath"] = originals
    setattr(owner, name, method)


def _changed(original: Any, change: Callable[..., Any]) -> Any:
    def method(self: Any, *given: Any, **named: Any) -> Any:
        return change(original, self, *given, **named)

    return method


def beneath(owner: type, name: str, change: Callable[..., Any]) -> Any:
    """The method of `owner` as it is without this change, and without those that are further out."""
    return vars(owner)[name].keyswap_beneath[change]
