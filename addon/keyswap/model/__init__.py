"""The values that travel along the path of a request.

Law: everything here is immutable and knows nothing of where it came from or where it goes: no mitmproxy, no clock, no
files, no HTTP status codes. A refusal is a value with two texts: a public code, and a private reason for the log.

    request    a request as it is judged            caller     who is calling, and what a token says
    operation  one operation of an API              decision   what the gate decides
    refusal    codes, reasons, and the step         level      how full a limit is
    errors     what cannot be used
"""

from keyswap.model.caller import ANONYMOUS, Claims, Principal, Proof, Secret
from keyswap.model.decision import (
    UNCOUNTED,
    Admit,
    Counted,
    Decision,
    NeedBody,
    Preflight,
    Reply,
    StepResult,
    no_places,
    nothing,
)
from keyswap.model.errors import StateError, Unread
from keyswap.model.level import Level
from keyswap.model.operation import Operation, Requirement, Upstream
from keyswap.model.refusal import UPSTREAM, WIRE, Code, Fault, Hint, Noted, Refuse
from keyswap.model.request import METHODS, Credential, Headers, Request

__all__ = [
    "ANONYMOUS",
    "METHODS",
    "UNCOUNTED",
    "UPSTREAM",
    "WIRE",
    "Admit",
    "Claims",
    "Code",
    "Counted",
    "Credential",
    "Decision",
    "Fault",
    "Headers",
    "Hint",
    "Level",
    "NeedBody",
    "Noted",
    "Operation",
    "Preflight",
    "Principal",
    "Proof",
    "Refuse",
    "Reply",
    "Request",
    "Requirement",
    "Secret",
    "StateError",
    "StepResult",
    "Unread",
    "Upstream",
    "no_places",
    "nothing",
]
