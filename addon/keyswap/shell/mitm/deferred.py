"""Events from outside that mitmproxy's layers take in their turn: completions of commands that do nothing.

Law: the command is never yielded. mitmproxy wants one class of commands for each class of completions.
"""

from dataclasses import dataclass
from typing import Any

from mitmproxy.proxy.commands import Command
from mitmproxy.proxy.events import CommandCompleted
from mitmproxy.proxy.layers.http import HttpLayer


@dataclass
class Deferred(Command):
    """Nothing is done for this command: it marks where its completion goes."""

    blocking = False

    def __hash__(self) -> int:
        return id(self)


def address(layer: HttpLayer, event: CommandCompleted, target: Any) -> None:
    """Let the HTTP layer hand this event to `target`: one of its connections or streams."""
    layer.command_sources[event.command] = target
