"""What several workers say, as one answer.

Law: what differs is told of each; what is wrong with one of them is wrong with the gateway.
"""

from typing import Any


def together(answers: list[dict[str, Any]], pid: int, wanted: int, restarts: int) -> dict[str, Any]:
    """The status of a gateway (CONTRACT §2): the first worker's, with what is wrong with any of them."""
    whole = dict(answers[0])
    answers = [one for one in answers if ("events" in one) == ("events" in whole)] if "events" in whole else answers
    errors = [one["policy"]["reload_error"] for one in answers if one["policy"]["reload_error"]]
    whole["policy"] = {**whole["policy"], "reload_error": errors[0] if errors else None}
    unwell = [one["limits"] for one in answers if not one["limits"]["healthy"]]
    whole["limits"] = {
        **(unwell[0] if unwell else whole["limits"]),
        "in_flight": sum(one["limits"].get("in_flight", 0) for one in answers),
    }
    unhealthy = [one["keys"] for one in answers if not one["keys"]["healthy"]]
    whole["keys"] = unhealthy[0] if unhealthy else whole["keys"]
    if "events" in whole:
        asking = [one["events"]["polling"] for one in answers if (one["events"]["polling"] or {}).get("asks")]
        ill = [one["events"]["changes"] for one in answers if not one["events"]["changes"]["healthy"]]
        whole["events"] = {
            **whole["events"],
            "polling": asking[0] if asking else whole["events"]["polling"],
            "changes": ill[0] if ill else whole["events"]["changes"],
        }
    if "sessions" in whole:
        sets: dict[str, dict[str, Any]] = {}
        for one in (one for answer in answers for one in answer.get("sessions", ())):
            if one["url"] not in sets or one["error"]:
                sets[one["url"]] = one
        whole["sessions"] = list(sets.values())
    del whole["tasks"]
    whole["pid"] = pid
    whole["workers"] = {
        "wanted": wanted,
        "restarts": restarts,
        "running": [
            {
                "pid": one["pid"],
                "policy_loaded_at": one["policy"]["loaded_at"],
                "error": one["policy"]["reload_error"],
                "tasks": one["tasks"],
            }
            for one in answers
        ],
    }
    return whole
