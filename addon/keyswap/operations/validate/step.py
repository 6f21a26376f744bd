"""The validation step, as the gate asks it: of all documents, or of none.

Law: what validates is loaded when a policy validates by a document, and not before: openapi-core is an eighth of a
second of CPU time and 14 MiB.
"""

from keyswap.model import Fault, Headers, Operation, Refuse, Request
from keyswap.operations.router import OperationMatch


class ValidationStep:
    """The step of a policy that validates nothing; `validation.Validations` is that of one that does."""

    any_response = False
    """Whether any response is judged."""

    def parameters(self, _request: Request, _match: OperationMatch[Operation]) -> Refuse | None:
        """Judge what comes before the body."""
        return None

    def body_limit(self, _request: Request, _match: OperationMatch[Operation]) -> int | None:
        """The longest body that is judged; None: the body is not judged."""
        return None

    def body(self, _request: Request, _match: OperationMatch[Operation], _body: bytes) -> Refuse | None:
        """Judge a body."""
        return None

    def response_limit(self, _operation: Operation) -> int | None:
        """The longest response's body that is judged; None: it is not judged."""
        return None

    def response(self, _operation: Operation, _status: int, _headers: Headers, _body: bytes) -> list[Fault]:
        """The faults of a response."""
        return []
