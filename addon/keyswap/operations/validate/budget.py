"""The budget of one request's validation.

Law: whatever is sent, judging it by the document's schemas ends soon, at the same point on every machine: its work is
counted in steps, not timed, and more of it than the budget is a refusal, never a wait. Only the search for a pattern,
which nobody can count from outside, is timed, on the thread's own clock.
"""

STEPS = 60_000
"""A request's validation holds the event loop, and all other requests with it. A step is about a microsecond: 60,000
took 20 to 50 ms of a processor, whatever schema and body they were spent on. A list of 3000 small objects in 100 KB
takes 22,000, and a megabyte of integers is too much. In a thread that would hold the loop no shorter, since the
interpreter runs one thread at a time."""
BYTES_A_STEP = 64
"""Reading a body of a megabyte takes about 15 ms."""


class Unjudged(Exception):
    """A value that cannot be judged, which is refused. The message is for the caller."""


class StepBudget:
    """The steps that are left. One request is judged at a time, on the gate's thread."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = STEPS

    def refill(self, size: int) -> None:
        """Begin with another request, of which so many bytes are to be read."""
        self.left = STEPS - size // BYTES_A_STEP

    def spend(self, steps: int) -> None:
        """Raises Unjudged when they are more than are left."""
        self.left -= steps
        if self.left < 0:
            raise Unjudged("it is too costly to be judged")
