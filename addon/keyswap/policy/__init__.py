"""The policy: YAML in, frozen typed values out.

Law: an unknown field, a wrong type or a missing file is an error that names file, line, field and remedy; a policy is
taken whole or not at all. Nothing is read after load, and no secret stands in a policy.

    loading      a file → a policy, or one error        sections    the whole policy, section by section
    callers      `api_keys`, `workos`, `sessions`       limits      `limits`, `plans`, `orgs`
    operations   `openapi`, `operations`                value_types single values: times, sizes, URLs
    size         how large its file may be          identity_headers the default of `strip_headers`
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyswap.policy.callers import SessionRule
    from keyswap.policy.limits import ByRequest, LimitRule, Numbers, effective
    from keyswap.policy.loading import PolicyError, PolicyUnread, line_at, load, parse, read, schema
    from keyswap.policy.operations import OperationRule
    from keyswap.policy.sections import Policy
    from keyswap.policy.value_types import parse_listen, parse_upstream, seconds

_MODULES = {
    "ByRequest": "limits",
    "LimitRule": "limits",
    "Numbers": "limits",
    "OperationRule": "operations",
    "Policy": "sections",
    "PolicyError": "loading",
    "PolicyUnread": "loading",
    "SessionRule": "callers",
    "effective": "limits",
    "line_at": "loading",
    "load": "loading",
    "parse": "loading",
    "parse_listen": "value_types",
    "parse_upstream": "value_types",
    "read": "loading",
    "schema": "loading",
    "seconds": "value_types",
}
"""What the package offers, and the module that has it: imported when it is asked for, since most commands ask for none
of it, and it takes a third of a second."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


__all__ = [
    "ByRequest",
    "LimitRule",
    "Numbers",
    "OperationRule",
    "Policy",
    "PolicyError",
    "PolicyUnread",
    "SessionRule",
    "effective",
    "line_at",
    "load",
    "parse",
    "parse_listen",
    "parse_upstream",
    "read",
    "schema",
    "seconds",
]
