"""What `mitmdump -s addon/gateway.py` loads. It has no `addons` of its own: the gate belongs to mitmproxy's master.

So the gate outlives this file: mitmproxy unloads a script that is deleted or no longer parses, and then forwards.
"""

from keyswap.shell.proxy.script import load

__all__ = ["load"]
