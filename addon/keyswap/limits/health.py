"""The health of a limit store: whether it answers, and how its calls went.

Law: health belongs to a store, not to a policy: its counts go on over reloads.
"""

from dataclasses import dataclass, field

from keyswap.histogram import Histogram

CALL_S = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0)


@dataclass(slots=True)
class Health:
    """Whether a store answers, as it was logged last, and how its calls went; gates share it over reloads."""

    unwell: bool = False
    failed_at: float = 0.0
    """When it last failed to answer."""
    acquired: int = 0
    full: int = 0
    """Calls in which a limit was full."""
    failed: int = 0
    took: Histogram = field(default_factory=lambda: Histogram(CALL_S))
    """How long each call took, in seconds, those that failed too."""
