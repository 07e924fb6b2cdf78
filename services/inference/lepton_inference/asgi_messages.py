"""What the ASGI application's ways have in common: reading a body, and gRPC's messages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from lepton_inference.budget import Held
from lepton_inference.framing import status_trailers, timeout_seconds, too_large
from lepton_mesh.errors import Internal, LeptonError

log = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]


class Call(NamedTuple):
    """One request as a server hands it over."""

    path: str
    headers: Headers
    receive: Receive
    send: Send
    """Raises OSError where the client is gone."""


GRPC_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/grpc")],
    "trailers": True,
}
GRPC_OK = {
    "type": "http.response.trailers",
    "headers": [(b"grpc-status", b"0")],
    "more_trailers": False,
}
GRPC_EMPTY = {"type": "http.response.body", "body": b"", "more_body": False}


async def whole_body(first: bytes, receive: Receive, held: Held, limit: int) -> bytes:
    """A request's body; raises MessageTooLarge or BodiesTooMany as soon as it is.

    Args:
        first: What of it was received already; more is to come.
        receive: Gives what comes next.
        held: Where its bytes count.
        limit: The most bytes that it may have.
    """
    chunks, size = [first], len(first)
    held.add(size)
    more = True
    while more:
        message = await receive()
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        held.add(len(chunk))
        more = message.get("more_body", False)
    return b"".join(chunks)


async def client_gone(receive: Receive) -> bool:
    """Whether the client of a request whose body was read is gone."""
    # Asked for more than there is, a server says whether anybody is there.
    return bool((await receive())["type"] == "http.disconnect")


def grpc_timeout(headers: Headers) -> float | None:
    """The seconds that a gRPC client will wait; None for no bound."""
    header = headers.get(b"grpc-timeout")
    return None if header is None else timeout_seconds(header)


def grpc_trailers(error: LeptonError) -> dict[str, Any]:
    """The message that ends a call which failed."""
    return {
        "type": "http.response.trailers",
        "headers": status_trailers(error),
        "more_trailers": False,
    }


async def send_grpc_error(send: Send, error: LeptonError) -> None:
    """Answers a call with an error."""
    try:
        await send(GRPC_START)
        await send(GRPC_EMPTY)
        await send(grpc_trailers(error))
    except OSError:
        return  # the client is gone


def internal(error: Exception, path: str) -> Internal:
    """What a caller hears of a bug: nothing but that there is one. The log has the rest."""
    log.error("call failed", extra={"method": path}, exc_info=error)
    return Internal("internal error")
