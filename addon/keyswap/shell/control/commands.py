"""The commands that a running gateway answers, in one process of it.

Law: nothing is decided here that the gate would not decide; a command never ends in a traceback.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from keyswap.limits.limit import LimitStoreUnavailable
from keyswap.model import StateError
from keyswap.policy import parse_listen
from keyswap.shell.control import explain, limits, status
from keyswap.shell.runtime.runtime import Runtime


async def answer(runtime: Runtime, command: dict[str, Any]) -> dict[str, Any]:
    """The answer to a command, or {"error": …}."""
    try:
        handler = _COMMANDS.get(command["command"])
        if handler is None:
            return {"error": "this gateway does not know the command: is it of another version?"}
        return await handler(runtime, command)
    except (StateError, LimitStoreUnavailable) as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 (a command must not end in a traceback)
        return {"error": f"this gateway could not answer the question ({type(error).__name__})"}


async def _status(runtime: Runtime, _command: dict[str, Any]) -> dict[str, Any]:
    return {**status.status(runtime, time.time()), "tasks": len(asyncio.all_tasks())}


async def _explain(runtime: Runtime, command: dict[str, Any]) -> dict[str, Any]:
    await runtime.signing.current()
    return await explain.explained(runtime.active.built, command, time.time())


async def _limits_list(runtime: Runtime, command: dict[str, Any]) -> dict[str, Any]:
    return await limits.limits_listed(runtime.active.built, command, time.time())


async def _limits_reset(runtime: Runtime, command: dict[str, Any]) -> dict[str, Any]:
    return await limits.limits_reset(runtime.active.built, command, time.time())


async def _known(runtime: Runtime, _command: dict[str, Any]) -> dict[str, Any]:
    built = runtime.active.built
    return status.known(built.policy, built.catalogue, runtime.file)


async def _heartbeat(runtime: Runtime, _command: dict[str, Any]) -> dict[str, Any]:
    """For the supervisor alone: the counts, and the admin listener that the policy wants, without its token."""
    admin = runtime.active.built.policy.admin
    host, port = parse_listen(admin.listen) if admin is not None else ("", 0)
    wanted = {"host": host, "port": port, "token_env": admin.token_env} if admin is not None else None
    return {"counts": await runtime.snapshot(), "admin": wanted, "prefix": runtime.key_store.prefix}


async def _jwks(runtime: Runtime, _command: dict[str, Any]) -> dict[str, Any]:
    """For the supervisor: the key set that the admin listener serves."""
    return dict(await runtime.jwks())


async def _readiness(runtime: Runtime, _command: dict[str, Any]) -> dict[str, Any]:
    return {"reasons": dict(await runtime.readiness())}


_COMMANDS: dict[str, Callable[[Runtime, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "status": _status,
    "explain": _explain,
    "limits list": _limits_list,
    "limits reset": _limits_reset,
    "known": _known,
    "heartbeat": _heartbeat,
    "readiness": _readiness,
    "jwks": _jwks,
}
