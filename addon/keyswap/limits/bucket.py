"""A leaky bucket in one number: its theoretical arrival time, the moment at which it will have run empty.

Law: pure functions of state, time and the limit's numbers; nothing here knows a clock or a store. All numbers are whole
and of one unit of time (nanoseconds or microseconds), so nothing is lost to rounding: `interval` is how long one unit
of cost takes to drain, `span` how long a full bucket does (capacity times interval). This is the generic cell rate
algorithm in its virtual scheduling form (ITU-T I.371, annex A), which is the leaky bucket as a meter.

Whatever the clock does: a state in the past is an empty bucket, one further ahead than a full bucket is a full one. So
a clock that steps back grants nothing and locks nobody out for longer than a full bucket takes to drain, and one that
jumps ahead empties a bucket and no more.
"""


def bounded(state: int, now: int, span: int) -> int:
    """The state as it counts at `now`: never emptier than empty, never fuller than full."""
    if state < now:
        return now
    return state if state - now <= span else now + span


def pour(state: int, now: int, interval: int, span: int, cost: int) -> int | None:
    """The state after `cost` was poured at `now`; None: it does not fit, and nothing has changed."""
    if state < now:  # as `bounded`, without another call: this is asked for each limit of each request
        state = now
    elif state - now > span:
        state = now + span
    after = state + cost * interval
    return after if after - now <= span else None


def remaining(state: int, now: int, interval: int, span: int) -> int:
    """How much cost still fits at `now`."""
    return (span - bounded(state, now, span) + now) // interval


def wait(state: int, now: int, interval: int, span: int, cost: int) -> int:
    """How long until `cost` fits, if nobody else pours; 0: it does already."""
    return max(0, bounded(state, now, span) + cost * interval - span - now)
