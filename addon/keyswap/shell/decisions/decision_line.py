"""Decisions as JSON: the line of CONTRACT §2, and the record from which a decision can be explained later.

Law: neither holds a credential, token, query, body or anything that was read from one but names. A decision is encoded
once: its record is its line with a part more. What is the same for many decisions (a principal, an operation, claims)
is encoded once and remembered, in tables that are bounded; a line has at most MAX_LINE bytes, and a record MAX_RECORD.
What a caller chose holds no key afterwards (`masking`).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from keyswap.model import (
    WIRE,
    Admit,
    Claims,
    Code,
    Decision,
    Level,
    NeedBody,
    Noted,
    Operation,
    Principal,
    Refuse,
    Reply,
)
from keyswap.shell.decisions.masking import Masking
from keyswap.shell.decisions.record import Line

MAX_LINE = 4094
"""With its end it is shorter than what Linux writes to a pipe in one go (PIPE_BUF, 4096)."""
MAX_RECORD = 16 << 10
MAX_PATH = 2 << 10
"""Characters of a path, encoded."""
MAX_METHOD = 16
CUT = "…"
"""Ends a path that was cut: none that came over the wire can hold it, since those are read byte by byte."""
MAX_PART, MAX_PARTS = 4 << 10, 2048
"""Characters of a remembered part, and how many of each kind are remembered."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class _Part(NamedTuple):
    """What is said of one value in a line, and what a record says more of it."""

    line: str
    more: str


class _Remembered[K, V](dict[K, V]):
    """What was made of values before; when it holds too many, all is forgotten and found again."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, value: K) -> V:
        if len(self) >= MAX_PARTS:
            self.clear()
        made = self[value] = self._make(value)
        return made


class Encoding:
    """Made anew with each policy, whose operations it remembers. For one thread. `off` are steps that judge nothing."""

    def __init__(self, off: Sequence[str] = (), mask: Masking | None = None) -> None:
        """`mask` takes keys out of a text."""
        self.mask = mask or Masking(["ksw"])
        self._off = [_members({"off": off})] if off else []
        self._operations = _Remembered[Operation, _Part](_operation)
        self._principals = _Remembered[Principal, _Part](_principal)
        self._claims = _Remembered[Claims, str](_claims)

    def line(self, line: Line) -> str:
        """The decision line, without its end."""
        text = self.mask.literal(self._line(line))
        return text if len(text) <= MAX_LINE else _cut(text)

    def record(self, line: Line, encoded: str | None) -> str:
        """The record, without its end; `encoded` is the decision's line where there is one already."""
        more = self.mask(self._more(line.decision))
        whole = f'{(encoded or self.line(line))[:-1]},"more":{{{more}}}}}'
        return whole if len(whole) <= MAX_RECORD else self.mask(_short(line, path_of(line)))

    def _line(self, line: Line) -> str:
        decision = line.decision
        judged = (
            decision.admit if isinstance(decision, NeedBody) else _REPLIED if isinstance(decision, Reply) else decision
        )
        refused = decision if isinstance(decision, Refuse) else line.outcome
        reasons = [noted.reason for noted in judged.noted] if isinstance(judged, Admit) else ()
        levels = (*judged.counted.levels, *judged.counted.watched) if isinstance(judged, Admit) else judged.levels
        who = self._principals[judged.principal].line if judged.principal is not None else _of_nobody(judged)
        return (
            f'{{"at":{line.at:.3f},"request_id":{quoted(line.request_id)},'
            f'"decision":{_ADMIT if isinstance(decision, Admit) else _REFUSE},"status":{line.status or "null"},'
            f'"code":{quoted(refused.code) if refused else "null"},"step":{_text(refused.step) if refused else "null"},'
            f'"reason":{self.mask(_text(refused.reason if refused else "; ".join(reasons) or None))},'
            f'"shadow":{_encode(judged.shadow) if judged.shadow else "[]"},'
            f'"method":{self.mask(quoted(_method(line)))},"path":{self.mask(_path(line))},'
            f"{self._operations[judged.operation].line if judged.operation else _NO_OPERATION},{who},"
            f'"client":{quoted(line.client)},"gate_us":{line.gate_s * 1e6:.1f},'
            f'"upstream_ms":{"null" if line.upstream_s is None else f"{line.upstream_s * 1e3:.2f}"},'
            f'"trace_id":{_text(line.trace_id)}{_of_levels(levels) if levels else ""}}}'
        )

    def _more(self, decision: Decision) -> str:
        """What an explanation needs beside the line."""
        judged = decision.admit if isinstance(decision, NeedBody) else decision
        if isinstance(judged, Reply):
            return ""
        parts = self._off.copy()
        if judged.operation:
            parts.append(self._operations[judged.operation].more)
        if judged.principal:
            parts.append(self._principals[judged.principal].more)
        if judged.noted:
            parts.append(_bounded("noted", judged.noted, _shorter(judged.noted)))  # the line has them in one text
        if isinstance(decision, NeedBody):
            parts.append(_members({"waits_for_body": decision.step}))
        if isinstance(judged, Refuse):
            parts += _of_refusal(judged)
        elif judged.claims is not None and judged is decision:
            parts.append(self._claims[judged.claims])
        return ",".join(parts)


def _method(line: Line) -> str:
    """The method; of one that nobody defined the beginning tells enough."""
    return line.method if len(line.method) <= MAX_METHOD else line.method[:MAX_METHOD] + CUT


def _cut(text: str) -> str:
    """A line that is too long, with less of every text in it, and of lists."""
    members: dict[str, object] = json.loads(text)
    for name, value in members.items():
        if isinstance(value, str):
            members[name] = shortened(value, _MOST.get(name, _MOST_ELSE))
        elif isinstance(value, list):
            members[name] = [
                {**each, "limit": shortened(each["limit"], _MOST_ELSE)} if isinstance(each, dict) else each
                for each in value[:_MOST_LISTED]
            ]
    return _encode(members)


_MOST = {"path": 768, "reason": 384, "operation": 192, "request_id": 264}
_MOST_ELSE, _MOST_LISTED = 128, 6
"""Characters of a text, encoded, and elements of a list, where a line would be too long: 3.6 KB in all at most."""


def shortened(text: str, most: int) -> str:
    """A text of which at most so many characters are left when it is encoded as JSON."""
    if len(quoted(text)) <= most:
        return text
    kept = text[:most]
    while (excess := len(quoted(kept + CUT)) - most) > 0:
        kept = kept[: -max(1, excess // 12)]
    return kept + CUT


def path_of(line: Line) -> str:
    """The path of a decision, without its query."""
    return line.target.partition(b"?")[0].decode("latin-1")


def _path(line: Line) -> str:
    """The path as JSON, of about MAX_PATH characters at most: a line has to fit into one write to a pipe."""
    path = path_of(line)
    shown = quoted(path)
    if len(shown) <= MAX_PATH + 2:
        return shown
    return quoted(path[: MAX_PATH if path.isascii() and path.isprintable() else MAX_PATH // 6] + CUT)


_REPLIED = Refuse(Code.GATEWAY_UNAVAILABLE, "", step=WIRE)
"""Stands for a decision in which nothing was judged."""
_ADMIT, _REFUSE = '"admit"', '"refuse"'
_NO_OPERATION = '"operation":null'


def _text(text: str | None) -> str:
    return "null" if text is None else quoted(text)


def _members(named: Mapping[str, object]) -> str:
    """The members of an object, without its braces."""
    return _encode(named)[1:-1]


def _of_nobody(judged: Admit | Refuse) -> str:
    key = judged.key_id if isinstance(judged, Refuse) else None
    return f'"key_id":{_text(key)},"org_id":null,"user_id":null,"agent":null,"session_id":null'


def _of_levels(levels: tuple[Level, ...]) -> str:
    each = [f'{{"limit":{quoted(one.limit)},"level":{one.level},"capacity":{one.capacity}}}' for one in levels]
    return f',"limits":[{",".join(each)}]'


def _of_refusal(refused: Refuse) -> Iterable[str]:
    if refused.presented is not None:
        yield _members({"presented": refused.presented})
    if refused.hint is not None:
        yield _members({"hint": refused.hint})
    if refused.required or refused.missing:
        yield _members({"required": refused.required, "missing": refused.missing})
    if refused.allow:
        yield _members({"allow": refused.allow})
    if refused.limit is not None:
        yield _members({"limit": refused.limit, "retry_after_s": refused.retry_after_s})
    if refused.errors:  # where alone: a message may say what a body names
        yield _members({"errors": [(fault.where, fault.at) for fault in refused.errors]})


def _operation(operation: Operation) -> _Part:
    more: dict[str, object] = {
        "operation_id": operation.operation_id,
        "document": operation.document,
        "pointer": operation.pointer,
        "require": operation.require,
        "source": operation.source,
        **({"public": True} if operation.public else {}),
        **({"mode": operation.mode} if operation.mode != "enforce" else {}),
    }
    least = {**more, "require": ()}
    return _Part(
        _members({"operation": operation.name if operation.path else None}), _bounded("operation", more, least)
    )


def _principal(principal: Principal) -> _Part:
    line = {
        "key_id": principal.key_id,
        "org_id": principal.org_id,
        "user_id": principal.user_id,
        "agent": principal.agent,
        "session_id": principal.session_id,
    }
    more = {
        "permissions": principal.permissions,
        "roles": principal.roles,
        "plan": principal.plan,
        "actor": principal.actor,
        **({"kind": principal.kind} if principal.kind != "key" else {}),
    }
    return _Part(_members(line), _bounded("principal", more, {**more, "permissions": None, "roles": None}))


def _claims(claims: Claims) -> str:
    members = claims._replace(session_claims=None)._asdict()  # what a session's token says of its user is not kept
    more = {name: value for name, value in members.items() if value is not None}
    return _bounded("claims", more, {**more, "permissions": None, "roles": None})


def _shorter(noted: Sequence[Noted]) -> Sequence[Noted]:
    return [each._replace(reason=shortened(each.reason, _MOST["reason"])) for each in noted[:_MOST_LISTED]]


def _bounded[T](name: str, whole: T, least: T) -> str:
    """A member, without what makes it too long."""
    text = _members({name: whole})
    return text if len(text) <= MAX_PART else _members({name: least})


def _short(line: Line, path: str) -> str:
    """The record of a decision of which there is too much to say."""
    refused = line.decision if isinstance(line.decision, Refuse) else line.outcome
    return _encode(
        {
            "at": round(line.at, 3),
            "request_id": line.request_id,
            "decision": "admit" if isinstance(line.decision, Admit) else "refuse",
            "status": line.status,
            "code": refused.code if refused else None,
            "step": refused.step if refused else None,
            "reason": refused.reason[:_SHORT] if refused else None,
            "shadow": (),
            "method": _method(line),
            "path": path[:_SHORT] + (CUT if len(path) > _SHORT else ""),
            "operation": None,
            **dict.fromkeys(("key_id", "org_id", "user_id", "agent", "session_id")),
            "client": line.client,
            "gate_us": round(line.gate_s * 1e6, 1),
            "upstream_ms": None,
            "trace_id": line.trace_id,
            "more": {"short": True},
        }
    )


_SHORT = 256
