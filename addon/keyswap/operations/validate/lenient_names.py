"""Names as the most lenient backend compares them: what else is read as a parameter, field or member that is judged.

Law: a name that is documented is itself; any other name that some backend takes for a documented one is a fault, as it
would carry a value past its schema. PHP cuts names at NUL, drops blanks before them, and writes `_` for `.`, for blanks
and for a lone `[`; it, Express (`qs`) and Rack read `a[]`, `a[0]` and `a.b` into `a`; ASP.NET and JSON in Go fold case.
"""

import re
from collections.abc import Iterable, Iterator

_BAD = re.compile(r"[\x00-\x1f\x7f;]")
_CUTS = re.compile(r"[\[\].]+")
_BRACKETS = re.compile(r"[\[\]]+")
_UNDERSCORED = re.compile(r"[ .\[]")
_MAX_PIECES = 8
MAX_NAME = 256
"""Characters of a name that is not documented, more than the longest that is: what is compared takes its time."""
METHOD = "_method"
"""Rack, Symfony and Laravel take it for the method in place of the request's."""

_Path = tuple[str, ...]


def fold(name: str) -> str:
    """A name without its letters' case, as the most lenient comparisons have it: `ſ` is s, the Kelvin sign k, `ı` i."""
    return name.upper().casefold().replace("\u0307", "")


def _pieces(name: str, cuts: re.Pattern[str]) -> _Path:
    return tuple(piece for segment in cuts.split(name, _MAX_PIECES) if (piece := segment.strip()))


def _php(folded: str) -> _Path:
    """The name as PHP reads it: `_` for blanks and dots of what stands before the first `[`."""
    base, bracket, rest = folded.partition("[")
    return (_UNDERSCORED.sub("_", base), *(_pieces(rest, _BRACKETS) if bracket else ()))


class Names:
    """The documented names of a query or form, or of cookies. `deep`: those of them that are written `name[member]`."""

    def __init__(self, named: Iterable[str], deep: Iterable[str] = (), cookies: bool = False) -> None:
        self._named, self._deep, self._dots = frozenset(named), frozenset(deep), not cookies
        self._longest = MAX_NAME + max(map(len, self._named), default=0)
        self._read: dict[_Path, str] = {}
        self._stems: dict[_Path, str] = {}
        for name in sorted(self._named if cookies else self._named | {METHOD}):
            for path in self._paths(fold(name.strip())):
                self._read.setdefault(path, name)
                if "[" in name:
                    self._stems.update({path[:count]: name for count in range(1, len(path))})

    def __contains__(self, name: str) -> bool:
        """Whether a name is documented, as itself or as a member of one that has members."""
        return name in self._named or ("[" in name and name[: name.index("[")] in self._deep)

    def fault(self, name: str) -> str | None:
        """The fault of a name that was sent; None: it has none."""
        if name in self:
            return None
        if len(name) > self._longest:
            return "its name is too long to be compared"
        if _BAD.search(name):
            return "a control character or ; stands in its name"
        judged = self._alias(fold(name.strip().lstrip("!").strip()))
        if judged == METHOD and METHOD not in self._named:
            return "it changes the method of a request, and is not documented"
        return f"backends may read it as {judged[:60]!r}, which is documented" if judged is not None else None

    def elsewhere(self, name: str) -> str | None:
        """The fault of a name that was sent where these are not documented: in the query, they being a form's."""
        return (
            "backends that read queries and forms as one may take it for what is documented"
            if name in self
            else self.fault(name)
        )

    def _alias(self, folded: str) -> str | None:
        for path in self._paths(folded):
            for count in range(1, len(path) + 1):
                judged = self._read.get(path[:count])
                if judged is not None:
                    return judged
            if path in self._stems:
                return self._stems[path]
        return None

    def _paths(self, folded: str) -> Iterator[_Path]:
        """The ways in which backends divide a name."""
        yield _php(folded)
        if self._dots:
            yield _pieces(folded, _CUTS)
        if "[" in folded and "]" not in folded[folded.index("[") :]:
            yield (_UNDERSCORED.sub("_", folded),)
