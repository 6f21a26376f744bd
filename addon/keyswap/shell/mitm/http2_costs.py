"""What HTTP/2 frames cost that are of no use: they are noted before h2 reads them.

Law: a frame that carries a request, or answers what a caller was sent, costs nothing.
"""

from typing import Any

import h2.events
import h2.exceptions
import h2.settings
from hyperframe import frame as frames
from mitmproxy.proxy.layers.http._http_h2 import BufferedH2Connection

from keyswap.shell.mitm.connection_watch import ConnectionWatch

SMALL_DATA, SMALL_COST = 64, 0.02
"""Bytes under which a DATA frame costs: 1,650 a second are free."""
DUE_PER_SEND, DUE_PER_BYTE, DUE_PER_REQUEST, MAX_DUE = 4.0, 1 / 4096, 4.0, float(1 << 14)
"""How many WINDOW_UPDATEs and the like a caller may send for what it was sent: the most talkative clients send two for
each frame, and frames are cut where its windows end."""
_SETTINGS = frozenset(h2.settings.SettingCodes)


class CostedConnection(BufferedH2Connection):
    """h2's connection; frames that only cost are noted before they are read."""

    watch: ConnectionWatch | None = None
    _due = 0.0

    def send_data(self, stream_id: int, data: Any, end_stream: bool = False, pad_length: Any = None) -> None:
        """What a caller is sent, it may send WINDOW_UPDATEs for."""
        self._due = min(MAX_DUE, self._due + DUE_PER_SEND + len(data) * DUE_PER_BYTE)
        super().send_data(stream_id, data, end_stream, pad_length)

    def _receive_frame(self, frame: frames.Frame) -> list[h2.events.Event]:
        cost = self._cost(frame) if self.watch is not None else 0.0
        if cost and self.watch is not None and self.watch.is_abusive(cost):
            raise h2.exceptions.DenialOfServiceError("too many frames of no use")
        return super()._receive_frame(frame)

    def _cost(self, frame: frames.Frame) -> float:
        """What a frame costs, beyond what comes of it. Resets of open streams cost by their event."""
        if isinstance(frame, frames.DataFrame):
            if len(frame.data) >= SMALL_DATA or "END_STREAM" in frame.flags:
                return 0.0
            return SMALL_COST if frame.data else 1.0
        if isinstance(frame, frames.HeadersFrame) and frame.stream_id > self.highest_inbound_stream_id:
            self._due = min(MAX_DUE, self._due + DUE_PER_REQUEST)
            return 0.0
        if isinstance(frame, frames.SettingsFrame):
            # h2 remembers every setting that it got, known or not.
            frame.settings = {code: value for code, value in frame.settings.items() if code in _SETTINGS}
        answers = isinstance(frame, frames.WindowUpdateFrame | frames.RstStreamFrame | frames.HeadersFrame)
        if answers and self._due >= 1:
            self._due -= 1
            return 0.0
        return 0.0 if isinstance(frame, frames.GoAwayFrame) else 1.0
