"""Keys that callers wrote where none belongs, out of what is written down.

Law: of a text no key of ours is left, in whatever case, percent-encoded (any number of times) or within other text:
what tells its kind stays, and the rest of it is `***`. A text of JSON is one afterwards too.
"""

import re
from collections.abc import Iterable

from keyswap.policy import Policy

MASK = "***"
_SHOWN = rf"\1{MASK}"
_ONE = "(?:[0-9a-z_]|%(?:25)*[3-7][0-9a-f])"
_ALL = "(?:[0-9a-z_]++|%(?:25)*+[3-7][0-9a-f])*+"


class Masking:
    """Made once from the policy. `prefixes` are those of keys like ours, `others` what other keys begin with."""

    def __init__(self, prefixes: Iterable[str], others: Iterable[str] = ()) -> None:
        ours = [f"{_each(prefix)}{_each('_')}(?:{_each('live')}|{_each('test')}){_each('_')}" for prefix in prefixes]
        theirs = [f"(?<![0-9a-z]){_each(begin)}(?={_ONE}{{16}})" for begin in others]
        self._key = re.compile(f"({'|'.join((*ours, *theirs))}){_ALL}(?:{re.escape(MASK)})?", re.IGNORECASE)
        self._marks = ("_live_", "_test_", *others)

    @staticmethod
    def of(policy: Policy) -> "Masking":
        """What hides the keys that a policy knows, and those of our default prefix."""
        keys = policy.api_keys
        return Masking({"ksw", keys.prefix}, ["sk_"] if keys.source == "workos" else [])

    def __call__(self, text: str) -> str:
        """The text without keys."""
        return self._key.sub(_SHOWN, text) if "%" in text else self.literal(text)

    def literal(self, text: str) -> str:
        """The text without keys whose kind is not percent-encoded: a quick look, where the rest has been masked."""
        small = text.lower()
        for mark in self._marks:
            if mark in small:
                return self._key.sub(_SHOWN, text)
        return text


def _each(literal: str) -> str:
    """A pattern for a text whose characters may be percent-encoded, and the `%` of that once more."""
    return "".join(
        [f"(?:{re.escape(one)}|%(?:25)*(?:{ord(one.lower()):02x}|{ord(one.upper()):02x}))" for one in literal]
    )
