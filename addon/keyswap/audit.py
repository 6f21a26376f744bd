"""The audit log: one JSON line a change in `audit.jsonl` of the state directory.

Law: a line is written after its change was committed, whole, by one append. When that fails the change stands, and a
warning says so: a key that was revoked must not live on because a disk is full, and a change that was made cannot be
unmade for others who have seen it. No line holds a key's value, a token or a private key; keys are named by their ids.
"""

import fcntl
import hashlib
import json
import logging
import os
import pwd
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from keyswap import files
from keyswap.policy.size import MAX_BYTES

logger = logging.getLogger(__name__)

FILE = "audit.jsonl"
ADMIN = "admin"
"""`via` for whoever holds the admin listener's token."""
SAME_S = 10.0
"""For so long a policy that another living process has loaded, or refused, is the same event."""
_LOOKED_AT = 64 << 10
_PATIENCE_S = 1.0


def changed(state: Path, via: str, action: str, target: str | None, **detail: object) -> None:
    """Write that something was changed, `via` the command line (cli), the gateway, or its admin listener."""
    try:
        handle = _opened(state)
    except OSError as error:
        return _complain(state, action, error)
    try:
        _append(handle, via, action, target, detail)
    except OSError as error:
        _complain(state, action, error)
    finally:
        os.close(handle)
    return None


def policy(state: Path, file: Path, error: str | None, text: bytes | None = None) -> None:
    """Write that a policy is in force, or was refused for this error. `text`: what was read of its file; None: nothing.

    Of several processes on one state directory the first one writes it; a restart is an event of its own.
    """
    action = "policy.loaded" if error is None else "policy.refused"
    detail = {"sha256": _digest(file) if text is None else _sha256(text), **({} if error is None else {"error": error})}
    try:
        handle = _opened(state)
    except OSError as problem:
        return _complain(state, action, problem)
    try:
        _lock(handle)
        if not _is_told(handle, action, str(file), detail["sha256"]):
            _append(handle, "gateway", action, str(file), detail)
    except OSError as problem:
        _complain(state, action, problem)
    finally:
        os.close(handle)
    return None


def _opened(state: Path) -> int:
    return os.open(state / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)


def _append(handle: int, via: str, action: str, target: str | None, detail: object) -> None:
    who = {"user": _user(), "uid": os.getuid(), "via": via, "pid": os.getpid()}
    line = {"at": round(time.time(), 3), "who": who, "action": action, "target": target, "detail": detail}
    text = json.dumps(line).encode() + b"\n"
    size = os.fstat(handle).st_size
    torn = size and os.pread(handle, 1, size - 1) != b"\n"  # what a full disk cut must not swallow this line
    if os.write(handle, b"\n" + text if torn else text) < len(text):
        raise OSError(0, "it was cut")


def _user() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None


def _digest(file: Path) -> str | None:
    try:
        return _sha256(files.contents(file, MAX_BYTES))
    except OSError:
        return None


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _lock(handle: int) -> None:
    """Hold the lock of the log; without it after a moment: an event written twice is better than none."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        with suppress(OSError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.01)
    return None


def _is_told(handle: int, action: str, target: str, digest: str | None) -> bool:
    """Whether another process, which still lives, has just written the same."""
    size = os.fstat(handle).st_size
    for text in os.pread(handle, _LOOKED_AT, max(0, size - _LOOKED_AT)).split(b"\n"):
        try:
            line: dict[str, Any] = json.loads(text)
            same = (line["action"], line["target"], line["detail"]["sha256"]) == (action, target, digest)
            if same and abs(time.time() - line["at"]) < SAME_S and _lives(line["who"]["pid"]):
                return True
        except (ValueError, KeyError, TypeError):
            continue  # another action's, or the rest of a line
    return False


def _lives(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _complain(state: Path, action: str, error: OSError) -> None:
    why = error.strerror or error
    logger.warning("%s is not written down in %s (%s): it has happened all the same", action, state / FILE, why)
