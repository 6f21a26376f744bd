"""mitmproxy's options: which ones the gate sets, and which ones would open it.

Law: an option that lets a request past the gate, or changes it after the gate, stops the start with an error that names
it, and cannot be set while running.
"""

from collections.abc import Mapping

from mitmproxy.exceptions import OptionsError
from mitmproxy.options import Options
from mitmproxy.proxy.mode_specs import ProxyMode

from keyswap.model import Upstream
from keyswap.policy import parse_upstream
from keyswap.shell.mitm.proxy_master import DEAD

FORBIDDEN = {
    "ignore_hosts": "makes connections a raw pipe past every check",
    "allow_hosts": "makes connections a raw pipe past every check",
    "tcp_hosts": "makes connections a raw pipe past every check",
    "udp_hosts": "makes connections a raw pipe past every check",
    "map_remote": "sends admitted requests, and their tokens, elsewhere",
    "map_local": "answers in place of the backend after the gate has decided",
    "modify_headers": "can put identity headers back after they were stripped",
    "modify_body": "changes requests after they were judged",
    "anticache": "takes headers out of requests after they were judged",
    "anticomp": "changes a header of requests after they were judged",
    "upstream_auth": "replaces the minted token",
    "stickyauth": "hands one caller's token to another",
    "stickycookie": "hands one caller's cookies to another",
    "server_replay": "answers from a recording after the gate has decided",
    "client_replay": "sends recorded requests upstream",
    "intercept": "holds requests that were judged, so that they can be changed, or outlive their key's revocation",
    "proxyauth": "takes the caller's credential for its own",
    "block_list": "answers in place of the gate",
    "stream_large_bodies": "breaks refusals of requests with a body",
    "body_size_limit": "answers in place of the gate",
    "store_streamed_bodies": "keeps every streamed body in memory",
    "ssl_insecure": "accepts any certificate of an https upstream",
    "proxy_debug": "writes what callers send, keys included, into the log",
}
"""Options that must keep mitmproxy's default, and what they would do."""

REQUIRED: Mapping[str, object] = {
    "validate_inbound_headers": True,
    "connection_strategy": "lazy",
    "keep_host_header": True,
    "rawtcp": False,
    "websocket": True,
    "block_global": False,
    "onboarding": False,
    "tcp_timeout": 1 << 30,
}
"""Options that the gate stands on."""

QUIET: Mapping[str, object] = {"flow_detail": 0, "termlog_verbosity": "warn"}
"""Set at the start, free afterwards: the gate's decision lines replace mitmproxy's."""


def refuse_dangerous(options: Options) -> None:
    """Raise OptionsError, naming the option, when one is set that would open the gate."""
    for name, does in FORBIDDEN.items():
        if name in options and getattr(options, name) != options.default(name):
            raise OptionsError(f"keyswap refuses the mitmproxy option {name}: it {does}. Remove it.")
    for name in options.deferred:
        if name.startswith("keyswap_"):
            raise OptionsError(f"keyswap has no option {name}: there are keyswap_policy and keyswap_state.")
    if not options.validate_inbound_headers:
        raise OptionsError(
            "keyswap refuses validate_inbound_headers=false: it reopens request smuggling. Remove the option."
        )


def hold_required(options: Options) -> None:
    """Raise OptionsError when an option that the gate set has been changed since."""
    for name, value in REQUIRED.items():
        if name in options and getattr(options, name) != value:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise OptionsError(f"keyswap stands on {name}={shown}: it cannot be changed while the gateway runs.")
    if [spec.partition("@")[0] for spec in options.mode] != [DEAD]:
        raise OptionsError("keyswap has set mitmproxy's mode: it cannot be changed while the gateway runs.")


def take_hold(options: Options) -> None:
    """Set what the gate stands on."""
    options.update(**{name: value for name, value in {**REQUIRED, **QUIET}.items() if name in options})


def is_dead(mode: ProxyMode) -> bool:
    """Whether a connection's own upstream is the dead one."""
    return mode.full_spec.partition("@")[0] == DEAD


def upstream_of(mode: list[str]) -> Upstream | None:
    """The upstream that `--mode` names; None for the dead one, which means: as the policy says."""
    if len(mode) != 1 or not mode[0].startswith(("reverse:http://", "reverse:https://")):
        raise OptionsError(
            f"keyswap needs exactly one mode, reverse:http://HOST:PORT or reverse:https://HOST:PORT, not "
            f"{', '.join(mode)}. Start mitmproxy with --mode {DEAD} to take the upstream from the policy."
        )
    spec = mode[0].partition("@")[0]
    if spec == DEAD:
        return None
    try:
        return parse_upstream(spec.removeprefix("reverse:"))
    except ValueError as error:
        raise OptionsError(f"keyswap cannot use --mode {mode[0]}: {error}") from error
