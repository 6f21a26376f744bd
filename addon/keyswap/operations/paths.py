"""The path law: whether a request's target has exactly one reading, where an operation may say what its backend reads.

Law: an opt-in only ever concerns the value of a parameter of its own operation, and holds where a backend that decodes
the path would find no other separator, no empty and no dot segment. Everything else is as strict as without one. What
passes is forwarded as it was sent.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from keyswap.model import METHODS, Refuse
from keyswap.operations.reading import PLAIN, one_reading
from keyswap.operations.template import Template, normal

_is_plain = PLAIN.fullmatch
_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_BETWEEN = re.compile(rb"/|%2f", re.IGNORECASE)


class Opening(NamedTuple):
    """What the policy says of an operation's path."""

    template: Template
    encoded_slash: bool

    def admits(self, path: bytes) -> bool:
        """Whether each encoded slash of `path`, as sent, stands inside a parameter's value."""
        found = self.template.shape.fullmatch(path) if self.encoded_slash else None
        return found is not None and all(all(_BETWEEN.split(value)) for value in found.groups())


class PathLaw:
    """Made once from the policy, asked for each request."""

    def __init__(self, openings: Iterable[Opening] = ()) -> None:
        written = sorted(openings, key=lambda opening: opening.template.rank)
        self._openings: Mapping[str, tuple[Opening, ...]] = {method: _of(method, written) for method in METHODS}
        self._any = any(opening.encoded_slash for opening in written)

    def __call__(self, method: str, target: bytes) -> Refuse | None:
        """Refuse a request target, as sent, that has more than one reading (law 4)."""
        if _is_plain(target):
            return None
        if self._any:
            path, mark, query = target.partition(b"?")
            if _SLASH.search(path) and self._admits(method, path):
                target = _SLASH.sub(b"/", path) + mark + query  # judged as a backend that decodes would see it
        return one_reading(target)

    def _admits(self, method: str, path: bytes) -> bool:
        """The first operation that the path belongs to decides, also where it is written with needless escapes."""
        plain = normal(path)
        for opening in self._openings.get(method, ()):
            if opening.template.shape.fullmatch(plain):
                return opening.admits(path)
        return False


def _of(method: str, openings: list[Opening]) -> tuple[Opening, ...]:
    """The operations that a method is judged by: HEAD also by those of GET that do not say HEAD themselves."""
    own = [opening for opening in openings if opening.template.method == method]
    if method != "HEAD":
        return tuple(own)
    said = {opening.template.form for opening in own}
    return tuple(
        opening
        for opening in openings
        if opening in own or (opening.template.method == "GET" and opening.template.form not in said)
    )
