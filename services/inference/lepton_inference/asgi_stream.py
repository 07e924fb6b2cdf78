"""ModelStreamInfer over ASGI: frames in and frames out around a RequestStream."""

from __future__ import annotations

import asyncio
from asyncio import create_task
from time import monotonic

from lepton_inference.asgi_messages import (
    GRPC_EMPTY,
    GRPC_OK,
    GRPC_START,
    Call,
    grpc_timeout,
    grpc_trailers,
    internal,
)
from lepton_inference.budget import Held
from lepton_inference.framing import Frames, message_of
from lepton_inference.incoming import Incoming
from lepton_inference.model import CallerGone, unless_gone
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted
from lepton_inference.streams import RequestStream
from lepton_inference.wire import frame
from lepton_mesh.errors import LeptonError


async def serve_stream(
    call: Call, protocol: OpenInference, admitted: Admitted, held: Held, limit: int
) -> None:
    """Answers one call; see :mod:`lepton_inference.streams`.

    Args:
        call: The call.
        protocol: What is asked.
        admitted: Who asks.
        held: Where the bytes of requests count; the caller's to release.
        limit: Of one request, bytes.

    Raises:
        OSError: The client is gone.
    """
    await call.send(GRPC_START)
    frames, encoding = Frames(limit), call.headers.get(b"grpc-encoding", b"")
    trailers = GRPC_OK
    # grpc-timeout is for the whole stream.
    timeout, started = grpc_timeout(call.headers), monotonic()
    incoming = Incoming(call.receive)

    async def send_on(answer: bytes) -> None:
        await call.send({"type": "http.response.body", "body": frame(answer), "more_body": True})

    def keep() -> None:
        held.keep(frames.waiting + stream.bytes)

    stream = RequestStream(protocol, admitted, send_on, settled=keep)
    try:
        async with stream:
            try:
                while (chunk := await incoming.chunk()) is not None:
                    held.add(len(chunk))
                    for flag, content in frames.add(chunk):
                        if flag:
                            # zlib lets others run meanwhile, and a little may become much.
                            content = await asyncio.to_thread(  # noqa: PLW2901  unpacked
                                message_of, flag, content, encoding, limit
                            )
                        if not stream.has_room:
                            await unless_gone(create_task(stream.room()), incoming.gone)
                        left = None if timeout is None else started + timeout - monotonic()
                        stream.begin(content, left)
                    keep()
            except LeptonError as error:
                trailers = grpc_trailers(error)  # once what was begun is answered
            await unless_gone(create_task(stream.finish()), incoming.gone)
    except CallerGone:
        return
    except OSError:
        raise
    except Exception as error:
        trailers = grpc_trailers(internal(error, call.path))
    finally:
        incoming.close()
    await call.send(GRPC_EMPTY)
    await call.send(trailers)
