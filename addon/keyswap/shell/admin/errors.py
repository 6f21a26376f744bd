"""What a route raises, and how each of it is answered: all that a caller can get wrong, in WorkOS' shape.

Law: an answer names fields and kinds of things, and holds nothing that the caller sent. What is not listed here is no
mistake of the caller's.
"""

from collections.abc import Mapping, Sequence

from keyswap.keys.local.reader import UnknownKey
from keyswap.keys.paging import UnknownCursor
from keyswap.refusals import Answer
from keyswap.shell.admin.responses import error


class InvalidInput(Exception):
    """Fields or parameters are not as they must be (422). `errors` in WorkOS' shape: code, field, and our message."""

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__("; ".join(f"{entry['field']}: {entry['message']}" for entry in errors))
        self.errors = errors

    @staticmethod
    def at(field: str, message: str, code: str = "invalid") -> "InvalidInput":
        """One field's."""
        return InvalidInput([{"code": code, "field": field, "message": message}])


class NotFound(Exception):
    """There is no such thing (404). The message names its kind, never what was asked for."""


class Conflict(Exception):
    """It cannot be done to what is there (409)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def answer_to(raised: BaseException | None, request_id: str) -> Answer | None:
    """The answer to a caller's mistake; None: it is none."""
    match raised:
        case UnknownCursor():
            return answer_to(InvalidInput.at(raised.field, "it is not the id of an object in this list"), request_id)
        case InvalidInput():
            message = f"Validation failed: {raised}."
            return error(422, message, request_id, "invalid_request_parameters", raised.errors)
        case UnknownKey():
            return error(404, "API key not found.", request_id, "entity_not_found")
        case NotFound():
            return error(404, str(raised), request_id, "entity_not_found")
        case Conflict():
            return error(409, str(raised), request_id, raised.code)
    return None
