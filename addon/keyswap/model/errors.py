"""What the gateway stands on and cannot use."""


class StateError(Exception):
    """Something the gateway stands on cannot be used: the message says what, where and how to mend it."""


class Unread(StateError):
    """What could not be read just now: that may pass by itself."""
