"""`keyswap engine`: configurations of the proxies that ask `keyswap authz`.

Law: nothing runs and nothing is changed; what is printed keeps the policy, or there is an error and nothing is printed.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from keyswap import host_port
from keyswap import policy as policies
from keyswap.cli.authz import authz_address
from keyswap.cli.output import Setting, common, write_new
from keyswap.composition.build_gate import catalogue
from keyswap.operations.openapi.document_cache import Documents
from keyswap.shell.authz.support import refuse_unsupported
from keyswap.shell.engine.caddy import caddy
from keyswap.shell.engine.edge import EdgeSettings, edge_settings, judged_operations, refuse_judged_bodies
from keyswap.shell.engine.envoy_edge import JudgedBody, envoy
from keyswap.shell.engine.nginx import nginx

Bodies = tuple[JudgedBody, ...]
PROXIES: Mapping[str, Callable[[EdgeSettings, Bodies], str]] = {
    "envoy": envoy,
    "nginx": lambda settings, _bodies: nginx(settings),
    "caddy": lambda settings, _bodies: caddy(settings),
}


@click.group()
def engine() -> None:
    """Proxies in front of the gate: their configurations."""


@engine.command()
@click.argument("proxy", type=click.Choice(list(PROXIES)))
@click.option("-o", "--output", metavar="FILE", help="Where to write it; - is standard output, the default.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where it listens.")
@click.option("--authz", metavar="ADDRESS", help="Where `keyswap authz` listens. Default: unix:STATE/authz.sock.")
@common
def config(setting: Setting, proxy: str, output: str | None, listen: str, authz: str | None) -> None:
    """Print the configuration of a proxy that asks `keyswap authz`, made from the policy."""
    address = authz_address(authz, setting.state.absolute())
    settings, bodies = _settings(setting, _listen(listen), address, sends_bodies=proxy == "envoy")
    text = PROXIES[proxy](settings, bodies)
    if output is not None and output != "-":
        file = Path(output)
        write_new(file, text)
        setting.print({"proxy": proxy, "file": str(file)}, f"wrote {file}")
    elif setting.json:
        setting.print({"proxy": proxy, "config": text})
    else:
        sys.stdout.write(text)


def _settings(setting: Setting, listen: str, authz: str, sends_bodies: bool) -> tuple[EdgeSettings, Bodies]:
    """What the proxy is to keep, and the bodies that are judged. Raises StateError."""
    policy, file = policies.load(setting.policy), setting.policy
    refuse_unsupported(policy, file)
    settings = edge_settings(policy, file, listen, authz)
    if all(api.validate_.requests == "off" for api in policy.apis):
        return settings, ()
    operations = catalogue(policy, Documents(None), file.parent, settings.upstream)
    if not sends_bodies:
        refuse_judged_bodies(policy, operations, file)
    judged = [(entry.operation, policy.apis[entry.api].validate_) for entry in judged_operations(policy, operations)]
    return settings, tuple(JudgedBody(one.method, one.path, how.max_body) for one, how in judged)


def _listen(text: str) -> str:
    try:
        host, port = host_port.split(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no HOST:PORT, like 127.0.0.1:8080", param_hint="--listen") from None
    if not set(host) <= _OF_HOSTS:
        raise click.BadParameter(f"{host!r} is no host", param_hint="--listen")
    return host_port.joined(host, port)


_OF_HOSTS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-*")
