"""`status`: what runs, what is enforced, and the state of the stores.

Law: the running gateway is asked; without one, this works on the state directory and says so.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from keyswap.cli.output import Setting, common, printable
from keyswap.shell.control import control_socket

if TYPE_CHECKING:
    from keyswap.composition.build_gate import Built
    from keyswap.composition.resources import Resources
from keyswap.cli.without_gateway import without_gateway


def _workers(workers: dict[str, Any] | None) -> list[str]:
    """How many workers run, and those that do not serve the policy on disk."""
    if workers is None:
        return []
    running = workers["running"]
    behind = [str(worker["pid"]) for worker in running if worker["error"]]
    return [
        f"workers   {len(running)} of {workers['wanted']}, {workers['restarts']} restarts"
        + (f"; NOT RELOADED: {', '.join(behind)}" if behind else "")
    ]


def _engine(engine: dict[str, Any] | None) -> list[str]:
    """What is in front of the workers."""
    if engine is None:
        return []
    process = f"pid {engine['pid']}" if engine["pid"] is not None else "NOT RUNNING"
    return [f"engine    {engine['name']} {engine['version']}, {process}, {engine['restarts']} restarts"]


def _documents(documents: list[dict[str, Any]]) -> Iterator[str]:
    """The documents in force, and which of them is a kept copy."""
    for document in documents:
        yield f"document  {document['spec']}: {document['operations']} operations under {document['prefix'] or '/'}"
        if document["stale"]:
            yield f"          A KEPT COPY: {document['stale']}"


def _standing(limits: dict[str, Any]) -> str:
    """A limit store's state, unless it is healthy."""
    if limits["healthy"]:
        return ""
    return f": {'' if limits['healthy'] is None else 'NOT ANSWERING, '}{printable(limits['reason'] or '')}"


def _known(keys: dict[str, Any]) -> str:
    """The key source."""
    if keys["source"] == "sqlite":
        count = "cannot be counted" if keys["keys"] is None else keys["keys"]
        return f"{count} in {keys['database']}"
    return f"at WorkOS: {keys['cached']} remembered, {keys['refused']} refused, {keys['asking']} being asked for"


def _remote(answer: dict[str, Any]) -> Iterator[str]:
    """Issuers of sessions, and how events reach the gateway."""
    for key_set in answer.get("sessions", ()):
        error = f": {printable(key_set['error'])}" if key_set.get("error") else ""
        yield f"sessions  {key_set['url']}: {key_set['keys']} keys{error}"
    events = answer.get("events")
    if events is not None:
        polling, changes = events["polling"], events["changes"]
        polled = "not polled" if polling is None else "polled"
        troubles = [part["reason"] for part in (polling, changes) if part is not None and part["reason"]]
        webhook = "a webhook" if events["webhook"] else "no webhook"
        yield f"events    {polled}, {webhook}" + "".join(f": {printable(why)}" for why in troubles)


@click.command()
@common
def status(setting: Setting) -> None:
    """What runs, what is enforced, and the state of the stores."""
    answer = control_socket.ask(setting.state, {"command": "status"})
    if answer is None:
        answer = without_gateway(setting, _standing_of)
        answer = {"running": False, **answer, "policy": {"file": str(setting.policy)}}
        if "database" in answer["keys"]:
            answer["keys"]["database"] = str(setting.state / "keys.db")
        if answer["limits"]["store"] != "local":
            answer["limits"] |= {"healthy": None, "reason": "no gateway runs that would ask it"}
    keys, tokens = answer["keys"], answer["tokens"]
    running = f"running, pid {answer['pid']}, on {', '.join(answer['listen'])}" if answer["running"] else "not running"
    admin = [f"admin     on {answer['admin']}"] if answer.get("admin") else []
    error = answer["policy"].get("reload_error")
    setting.print(
        answer,
        f"gateway   {running}",
        *_engine(answer.get("engine")),
        *_workers(answer.get("workers")),
        *admin,
        f"policy    {answer['policy']['file']}",
        *([f"          NOT RELOADED: {error}"] if error else ()),
        f"upstream  {answer['upstream']}",
        *_documents(answer["documents"]),
        f"limits    {answer['limits']['store']}{_standing(answer['limits'])}",
        f"shadowed  {', '.join(answer['shadowed']) or '-'}; off: {', '.join(answer['off']) or '-'}",
        f"tokens    {tokens['algorithm']}, {tokens['profile']}, {tokens['ttl_s']:g} s, issuer {answer['issuer']}",
        f"keys      {_known(keys)}" + ("" if keys["healthy"] else f": {printable(keys['reason'] or '')}"),
        *_remote(answer),
        *(f"signing   {key['kid']} {key['alg']} {key['state']}" for key in answer["signing"]),
    )


def _standing_of(built: "Built", _resources: "Resources") -> dict[str, Any]:
    from keyswap.shell.control.status import standing

    return standing(built, time.time())
