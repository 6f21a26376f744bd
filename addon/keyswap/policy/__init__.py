"""The policy: YAML in, frozen typed values out.

Law: an unknown field, a wrong type or a missing file is an error that names file, line, field and remedy; a policy is
taken whole or not at all. Nothing is read after load, and no secret stands in a policy.

    loading      a file → a policy, or one error        sections    the whole policy, section by section
    callers      `api_keys`, `workos`, `sessions`       limits      `limits`, `plans`, `orgs`
    operations   `openapi`, `operations`                value_types single values: times, sizes, URLs
"""

from keyswap.policy.callers import SessionRule
from keyswap.policy.limits import ByRequest, LimitRule, Numbers, effective
from keyswap.policy.loading import PolicyError, PolicyUnread, line_at, load, parse, read, schema
from keyswap.policy.operations import OperationRule
from keyswap.policy.sections import Policy
from keyswap.policy.value_types import parse_listen, parse_upstream, seconds

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
