"""REST's generate_stream over ASGI: a stream of one request, its answers server-sent events.

The response begins with the first answer. What fails before is answered as any REST request is,
with its status; what fails after is the last event, since the status was said by then.
Events are those of the HTML standard, section 9.2, with a line of JSON as their data.
"""

from __future__ import annotations

import contextlib
import json
from asyncio import create_task

from lepton_inference import rest_generate, rest_json
from lepton_inference.asgi_messages import Send
from lepton_inference.batch import Outcome
from lepton_inference.model import Gone, Model, unless_gone
from lepton_inference.open_inference import OpenInference
from lepton_inference.rest_generate import EventsAsked
from lepton_inference.shared_tensors import Placed
from lepton_inference.signature import Checked
from lepton_inference.streams import RequestStream
from lepton_mesh.errors import LeptonError

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
    ],
}
_END = {"type": "http.response.body", "body": b""}


async def serve_events(asked: EventsAsked, protocol: OpenInference, send: Send, gone: Gone) -> None:
    """Answers one request; see :mod:`lepton_inference.streams`.

    Args:
        asked: The request.
        protocol: What is asked.
        send: Takes the response.
        gone: Whether the client is.

    Raises:
        LeptonError: Why it is not answered; nothing was sent.
        CallerGone: The client is gone.
    """
    events = _Events(send)
    async with RequestStream(protocol, asked.admitted, events.send, writer=events) as stream:
        stream.ask((asked.model, asked.request), asked.request.id, asked.size)
        await unless_gone(create_task(stream.finish()), gone)
    if not events.begun and events.failed is not None:
        raise events.failed
    with contextlib.suppress(OSError):  # the client is gone, with all that it asked for
        await send(_END)


class _Events:
    """Writes answers as events and sends them. A Writer for the stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        """Whether the response is on its way."""
        self.failed: LeptonError | None = None

    async def send(self, event: bytes) -> None:
        """Sends an event, unless it tells of a failure before any answer."""
        if not self.begun:
            if self.failed is not None:
                return
            self.begun = True
            await self._send(_START)
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    def answer(
        self,
        model: Model,
        request_id: str,
        checked: Checked,
        outcome: Outcome,
        *,
        placed: Placed | None = None,
        final: bool,
    ) -> bytes:
        """See Writer; which answer is the last is said by the response's end."""
        return _event(rest_generate.encode(model, request_id, checked, outcome))

    def empty_final(self, model: Model, request_id: str) -> bytes:
        """See Writer."""
        return _event(json.dumps(rest_generate.head(model, request_id)).encode())

    def failure(self, error: LeptonError, request_id: str) -> bytes:
        """See Writer."""
        self.failed = error
        return _event(json.dumps(rest_json.failure(error)).encode())


def _event(data: bytes) -> bytes:
    """JSON, which has no line breaks, as an event."""
    return b"data: " + data + b"\n\n"
