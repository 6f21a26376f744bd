"""The gate as a mitmproxy addon: its options, its start and its end. `hooks` has what carries requests.

Law: until the gate has started, and for good where it could not, everything is refused.
"""

import asyncio
import sys
from functools import partial
from pathlib import Path

from mitmproxy import ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.exceptions import OptionsError
from mitmproxy.master import Master

from keyswap.model import Refuse, Upstream
from keyswap.shell.connections.exchange import Exchange
from keyswap.shell.connections.guard import ConnectionGuard
from keyswap.shell.control import commands
from keyswap.shell.control.control_socket import ControlSocket
from keyswap.shell.mitm import patch_table, proxy_master, wire_logs
from keyswap.shell.proxy import flow_writer, options
from keyswap.shell.proxy.bodies import BodyHandler
from keyswap.shell.proxy.handler import RequestHandler
from keyswap.shell.proxy.hooks import ClosedGate, ConnectionAddon, GateAddon, ResponseAddon
from keyswap.shell.proxy.listener import GateListener
from keyswap.shell.proxy.responses import ResponseHandler
from keyswap.shell.proxy.webhook import Webhooks
from keyswap.shell.runtime.certificate import Certificate
from keyswap.shell.runtime.connection_limits import raise_file_limit
from keyswap.shell.runtime.exceptions import report, report_unhandled
from keyswap.shell.runtime.runtime import Runtime
from keyswap.state import default_policy, default_state


class RunningGate:
    """A gate that has started: what is in force, the guard over its connections, and the handlers of its requests."""

    def __init__(self, master: Master, runtime: Runtime, shows: bool, is_behind: bool = False) -> None:
        """`shows`: somebody looks at flows. `is_behind`: an engine is in front."""
        self.master, self.runtime = master, runtime
        listener = GateListener(runtime, shows)
        self.guard = ConnectionGuard(master, listener)
        webhooks = Webhooks(self._end)
        self.heads = RequestHandler(runtime, self.guard, listener, webhooks)
        self.bodies = BodyHandler(runtime, self.guard, webhooks, shows)
        self.responses = ResponseHandler(self.guard, shows, is_behind)
        runtime.traffic = self.guard.traffic

    def _end(self, exchange: Exchange, refused: Refuse) -> None:
        connection = self.guard.of(exchange.flow.client_conn)
        if connection is not None:
            connection.end(exchange, refused)


class KeyswapAddon:
    """The one addon that mitmproxy is given; those under it have the hooks that carry requests."""

    name = "keyswap"

    def __init__(
        self,
        upstream: Upstream | None = None,
        certificate: Certificate | None = None,
        supervised: bool = False,
        resumes: bool = False,
        share: int = 1,
        asked_by: str | None = None,
    ) -> None:
        """`supervised`: another process answers commands; `resumes`: this one takes the place of another.

        `share`: how many processes are one gateway. `asked_by`: how callers ask an engine in front, http or https;
        None: there is none.
        """
        self.addons: list[object] = [ClosedGate()]
        self._upstream, self._certificate, self._supervised = upstream, certificate, supervised
        self._resumes, self._share, self._asked_by = resumes, share, asked_by
        self._master: Master | None = None
        self._gate: RunningGate | None = None
        self._sweeps: asyncio.Task[None] | None = None
        self._set = ("", "")

    @property
    def runtime(self) -> Runtime | None:
        """What is in force; None: it has not started."""
        return self._gate.runtime if self._gate is not None else None

    def load(self, loader: Loader) -> None:
        """Declare our options."""
        loader.add_option("keyswap_policy", str, "", "Policy file. Default: $KEYSWAP_POLICY, ~/.keyswap/policy.yaml.")
        loader.add_option("keyswap_state", str, "", "State directory. Default: $KEYSWAP_STATE, ~/.keyswap.")

    def start(self, master: Master) -> None:
        """Take hold of mitmproxy, load the policy. Raises OptionsError or StateError, with the way upstream closed."""
        wire_logs.quieten_wire_logs()
        wire_logs.log_without_quoting(report)
        proxy_master.drop_replays(master)
        proxy_master.drop_revocation_list(master)
        raise_file_limit()
        mode = list(master.options.mode)
        proxy_master.close_direct_path(master)
        options.refuse_dangerous(master.options)
        upstream = self._upstream or options.upstream_of(mode)
        options.take_hold(master.options)
        self._set = (master.options.keyswap_policy, master.options.keyswap_state)
        self._master = master
        shows = proxy_master.keeps_flows(master)
        patch_table.install(flow_writer.REASONS, shows)
        self._gate = gate = RunningGate(master, self._runtime(master, upstream), shows, self._asked_by is not None)
        connections = ConnectionAddon(gate.runtime, gate.guard, self._certificate, self._asked_by == "https")
        self._replace(master, [connections, GateAddon(gate.heads, gate.bodies), ResponseAddon(gate.responses)])

    def _runtime(self, master: Master, upstream: Upstream | None) -> Runtime:
        policy, state = self._set
        return Runtime(
            Path(policy).expanduser() if policy else default_policy(),
            Path(state).expanduser() if state else default_state(),
            upstream,
            terminal=not proxy_master.owns_terminal(master),
            certificate=self._certificate,
            alone=not self._supervised,
            resumes=self._resumes,
            share=self._share,
        )

    def _replace(self, master: Master, addons: list[object]) -> None:
        """Open the gate: these addons take the place of those that refuse everything."""
        self.addons = [master.addons.register(addon) for addon in addons]

    def configure(self, _updated: set[str]) -> None:
        """Refuse options that would open the gate, also while it runs."""
        if self._master is not None:
            options.refuse_dangerous(ctx.options)
            options.hold_required(ctx.options)
            if (ctx.options.keyswap_policy, ctx.options.keyswap_state) != self._set:
                raise OptionsError("keyswap_policy and keyswap_state are set at the start: restart with the new ones.")

    async def running(self) -> None:
        """Begin what goes on beside the requests: reload, control socket, last use."""
        asyncio.get_running_loop().set_exception_handler(report_unhandled)  # mitmproxy's logs what exceptions say
        if self._gate is not None:
            master, runtime = self._gate.master, self._gate.runtime
            folder, answer = runtime.resources.state.path, partial(commands.answer, runtime)
            tended = () if self._supervised else (ControlSocket(folder, answer),)
            await runtime.begin(lambda: proxy_master.listen_addresses(master), tended)
            self._sweeps = asyncio.create_task(self._gate.guard.run(), name="keyswap guard")
            if url := proxy_master.web_url(master):
                print(f"look at decisions: {url}", file=sys.stderr, flush=True)

    async def drain(self, grace_s: float) -> None:
        """Let nobody in any more, and give those who are here so long to be done."""
        if self._gate is not None:
            self._gate.heads.draining = self._gate.runtime.stopping = True
            await proxy_master.stop_listening(self._gate.master)
            await self._gate.guard.drain(grace_s)

    async def done(self) -> None:
        """End it, and keep what was gathered."""
        if self._gate is not None:
            self._gate.runtime.stopping = True
            if self._sweeps is not None:
                self._sweeps.cancel()
            await proxy_master.stop_listening(self._gate.master)
            await self._gate.guard.end()
            await self._gate.runtime.end()
