"""mitmproxy's addons without those that a gateway never runs, for the beginning of a worker.

Law: it comes before anything imports one of them, and in a process that needs no others. Measured on 12.2.3.
"""

import importlib.util
import sys

import mitmproxy

_NAME = "mitmproxy.addons"


def spare_addons() -> None:
    """Let a module of the package be imported without the package, which imports all, and with them flask and ldap3."""
    spec = importlib.util.find_spec(_NAME) if _NAME not in sys.modules else None
    if spec is not None:
        sys.modules[_NAME] = package = importlib.util.module_from_spec(spec)
        vars(mitmproxy)["addons"] = package
