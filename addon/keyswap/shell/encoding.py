"""Decisions as JSON: the line of CONTRACT §2, and the record from which a decision can be explained later.

Law: neither holds a credential, token, query, body or anything that was read from one but names. A decision is encoded
once: its record is its line with a part more. What is the same for many decisions (a principal, an operation, claims)
is encoded once and remembered, in tables that are bounded; a record has at most MAX_RECORD bytes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from keyswap.model import Admit, Claims, Code, Decision, Level, NeedBody, Operation, Principal, Refuse, Reply
from keyswap.shell.decisions import Line

MAX_RECORD = 16 << 10
MAX_PATH = 2 << 10
"""Characters of a path, encoded."""
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

    def __init__(self, off: Sequence[str] = ()) -> None:
        self._off = [_members({"off": off})] if off else []
        self._operations = _Remembered[Operation, _Part](_operation)
        self._principals = _Remembered[Principal, _Part](_principal)
        self._claims = _Remembered[Claims, str](_claims)

    def line(self, line: Line) -> str:
        """The decision line, without its end."""
        return self._line(line)

    def record(self, line: Line, encoded: str | None) -> str:
        """The record, without its end; `encoded` is the decision's line where there is one already."""
        whole = f'{(encoded or self._line(line))[:-1]},"more":{{{self._more(line.decision)}}}}}'
        return whole if len(whole) <= MAX_RECORD else _short(line, path_of(line))

    def _line(self, line: Line) -> str:
        decision = line.decision
        judged = (
            decision.admit if isinstance(decision, NeedBody) else _REPLIED if isinstance(decision, Reply) else decision
        )
        refused = decision if isinstance(decision, Refuse) else line.outcome
        noted = judged.noted if isinstance(judged, Admit) else None
        levels = (*judged.counted.levels, *judged.counted.watched) if isinstance(judged, Admit) else judged.levels
        who = self._principals[judged.principal].line if judged.principal is not None else _of_nobody(judged)
        return (
            f'{{"at":{line.at:.3f},"request_id":{quoted(line.request_id)},'
            f'"decision":{_ADMIT if isinstance(decision, Admit) else _REFUSE},"status":{line.status or "null"},'
            f'"code":{quoted(refused.code) if refused else "null"},'
            f'"reason":{_text(refused.reason if refused else noted)},'
            f'"shadow":{_encode(judged.shadow) if judged.shadow else "[]"},'
            f'"method":{quoted(line.method)},"path":{_path(line)},'
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
        if isinstance(judged, Refuse):
            parts += _of_refusal(judged)
        elif judged.claims is not None and judged is decision:
            parts.append(self._claims[judged.claims])
        return ",".join(parts)


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


_REPLIED = Refuse(Code.GATEWAY_UNAVAILABLE, "")
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
    said = claims._replace(copied=None)._asdict()  # what a session's token says of its user is not kept
    more = {name: value for name, value in said.items() if value is not None}
    return _bounded("claims", more, {**more, "permissions": None, "roles": None})


def _bounded(name: str, whole: Mapping[str, object], least: Mapping[str, object]) -> str:
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
            "reason": refused.reason[:_SHORT] if refused else None,
            "shadow": (),
            "method": line.method,
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
