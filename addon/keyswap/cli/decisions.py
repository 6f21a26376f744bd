"""What was decided, and what is being decided: `explain --request-id`, `tail`.

Law: both read what the gateways of this state directory keep, whichever process made it, whether one runs or not. What
callers chose is shown with its control characters escaped.
"""

import json
import os
import sys
import time
from datetime import datetime
from typing import Any

import click

from keyswap import policy as policies
from keyswap.cli.output import Setting, common, printable
from keyswap.model import StateError
from keyswap.shell.control import control_socket
from keyswap.shell.decisions.reader import Record, Tail, recorded
from keyswap.state import StateDirectory

POLL_S = 0.1


def recalled(setting: Setting, request_id: str) -> dict[str, Any]:
    """The explanation of a decision that was made. Raises StateError when it is not kept."""
    StateDirectory(setting.state).seen()
    record = recorded(setting.state, request_id)
    if record is not None:
        from keyswap.explain.recorded import explain_record

        return explain_record(record)
    kept = retain(setting)
    if kept == 0:
        raise StateError("no decisions are kept: set `log.retain` of the policy")
    last = "" if kept is None else f" {kept}"
    raise StateError(
        f"no decision on request {request_id} is kept in {setting.state}: is it older than the last{last} decisions "
        "(`log.retain` of the policy), or another gateway's?"
    )


def retain(setting: Setting) -> int | None:
    """How many decisions are kept, as the running gateway or else the policy says; None: neither can be asked."""
    try:
        status = control_socket.ask(setting.state, {"command": "status"})
        if status is not None and "log" in status:
            return int(status["log"]["retain"])
        return policies.load(setting.policy).log.retain
    except StateError:
        return None


@click.command()
@click.option("--deny", is_flag=True, help="Only refusals.")
@click.option("--org", metavar="ORG", help="Only this organization's.")
@click.option("--key", metavar="ID", help="Only this key's.")
@click.option("--request-id", metavar="ID", help="Only this request's.")
@common
def tail(setting: Setting, deny: bool, org: str | None, key: str | None, request_id: str | None) -> None:
    """Live decisions of every gateway on this state directory, one line each, until Ctrl-C."""
    StateDirectory(setting.state).seen()
    if retain(setting) == 0:
        raise StateError("there is nothing to follow: `log.retain` of the policy is 0")
    filters = {"org_id": org, "key_id": key, "request_id": request_id, "decision": "refuse" if deny else None}
    wanted = {name: value for name, value in filters.items() if value is not None}
    if control_socket.ask(setting.state, {"command": "status"}) is None:
        click.echo(f"no gateway runs on {setting.state} now: waiting for decisions", err=True)
    decisions = Tail(setting.state)
    try:
        while True:
            for record in decisions.news():
                if wanted.items() <= record.items():
                    click.echo(_as_json(record) if setting.json else _line(record))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:  # whoever read the lines has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    finally:
        decisions.close()


def _as_json(record: Record) -> str:
    return json.dumps({name: value for name, value in record.items() if name != "more"})


def _line(record: Record) -> str:
    """A decision on one line: when, what, of whom, how long, which."""
    at = datetime.fromtimestamp(record["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    upstream = f" + {record['upstream_ms']:.1f} ms" if record["upstream_ms"] is not None else ""
    verdict = f"{record['decision']:<6} {record['status'] or '-'} {record['code'] or '-'}"
    noted = f" (shadow: {', '.join(record['shadow'])})" if record["shadow"] else ""
    what = f"{record['method'] or '-'} {record['path'] or '-'}"
    whose = f"{record['key_id'] or '-'}/{record['org_id'] or '-'}"
    return printable(
        f"{at} {verdict}{noted} {what} {whose} {record['gate_us']:.0f} µs{upstream} {record['request_id']}"
    )
