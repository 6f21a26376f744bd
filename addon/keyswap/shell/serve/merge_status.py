"""The status of several workers, merged into the gateway's.

Law: a value that differs between workers is shown for each of them; a fault of one worker is the gateway's.
"""

from collections.abc import Collection
from typing import Any


def merge_status(
    statuses: list[dict[str, Any]], proxies: Collection[int], pid: int, wanted: int, restarts: int
) -> dict[str, Any]:
    """The status of a gateway (CONTRACT §2): the first worker's, with the faults of all of them.

    `proxies`: process ids of those of them that are proxies behind an engine.
    """
    merged, every = dict(statuses[0]), statuses
    if "events" in merged:
        statuses = [status for status in statuses if "events" in status]
        merged["events"] = _merge_events([status["events"] for status in statuses])
    errors = [status["policy"]["reload_error"] for status in statuses if status["policy"]["reload_error"]]
    merged["policy"] = {**merged["policy"], "reload_error": errors[0] if errors else None}
    limits = [status["limits"] for status in statuses]
    merged["limits"] = {**_unhealthy_first(limits), "in_flight": sum(part.get("in_flight", 0) for part in limits)}
    merged["keys"] = _unhealthy_first([status["keys"] for status in statuses])
    if "sessions" in merged:
        merged["sessions"] = _merge_key_sets([key_set for status in statuses for key_set in status.get("sessions", ())])
    del merged["tasks"]
    merged["pid"] = pid
    running = [_worker(status) for status in every if status["pid"] not in proxies]
    behind = {"proxies": [_worker(status) for status in every if status["pid"] in proxies]} if proxies else {}
    merged["workers"] = {"wanted": wanted, "restarts": restarts, "running": running, **behind}
    return merged


def _unhealthy_first(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The first part that is not healthy, else the first worker's."""
    return next((part for part in parts if not part["healthy"]), parts[0])


def _merge_events(events: list[dict[str, Any]]) -> dict[str, Any]:
    polling = [part["polling"] for part in events if (part["polling"] or {}).get("asks")]
    return {
        **events[0],
        "polling": polling[0] if polling else events[0]["polling"],
        "changes": _unhealthy_first([part["changes"] for part in events]),
    }


def _merge_key_sets(key_sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each URL's key set once; where workers differ, one with an error."""
    by_url: dict[str, dict[str, Any]] = {}
    for key_set in key_sets:
        if key_set["url"] not in by_url or key_set["error"]:
            by_url[key_set["url"]] = key_set
    return list(by_url.values())


def _worker(status: dict[str, Any]) -> dict[str, Any]:
    policy = status["policy"]
    return {
        "pid": status["pid"],
        "policy_loaded_at": policy["loaded_at"],
        "error": policy["reload_error"],
        "tasks": status["tasks"],
    }
