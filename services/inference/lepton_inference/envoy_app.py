"""The ASGI application that Envoy loads: the whole service, living inside the data port.

Envoy waits for ``lifespan.startup`` before it listens, so the port is known only after it.
The process that started Envoy then says which it is, and only then the instance registers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import AsyncExitStack

from lepton_inference.asgi import Application
from lepton_inference.asgi_messages import Receive, Scope, Send
from lepton_inference.bootstrap import InferenceService
from lepton_inference.config import NAME, InferenceSettings
from lepton_inference.control import DESCRIPTOR, Control
from lepton_mesh import logs
from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.errors import LeptonError
from lepton_mesh.process import serve
from lepton_mesh.runtime import MeshRuntime

log = logging.getLogger(__name__)


class EnvoyApp:
    """Built empty at import; everything begins with the lifespan."""

    def __init__(self) -> None:
        self._application: Application | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._application is not None:
            await self._application(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        end = socket.socket(fileno=int(os.environ.pop(DESCRIPTOR)))
        control = await Control.over(end)
        async with AsyncExitStack() as stack:
            try:
                serving = await self._open(stack, control)
            except Exception as error:
                await _report(control, error)
                await send({"type": "lifespan.startup.failed", "message": "see the log"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})

    async def _open(self, stack: AsyncExitStack, control: Control) -> asyncio.Task[None]:
        """Joins the mesh and builds the service; the task serves it."""
        settings = InferenceSettings.load(NAME)
        logs.configure(
            NAME, settings.instance, level=settings.log_level, format=settings.log_format
        )
        runtime = await stack.enter_async_context(await MeshRuntime.open(NAME, settings))
        inference = await InferenceService.open(runtime, settings)
        application = Application(
            inference.protocol,
            inference.gate,
            settings.max_message_bytes,
            runtime.telemetry,
            max_json_bytes=settings.max_json_bytes,
            max_bytes_in_flight=settings.max_bytes_in_flight,
        )
        self._application = application
        return asyncio.create_task(self._serve(runtime, inference, application, control))

    async def _serve(
        self,
        runtime: MeshRuntime,
        inference: InferenceService,
        application: Application,
        control: Control,
    ) -> None:
        """Serves from when the data port is known until told to stop, then drains."""
        stop = asyncio.Event()
        message = await control.receive()
        if message["kind"] != "address":
            return
        service = inference.service({"oip": message["address"]}, drained=application.idle)

        async def watch_control() -> None:
            await control.send("serving")
            await control.receive()
            stop.set()

        watching = asyncio.create_task(watch_control())
        try:
            await serve(runtime, service, stop)
        except Exception as error:
            await _report(control, error)
        else:
            await control.send("stopped")
        finally:
            watching.cancel()


async def _report(control: Control, error: Exception) -> None:
    """Says what ended the service in one line, to the process that will exit with it."""
    if isinstance(error, LeptonError):
        status = 2 if isinstance(error, InvalidConfiguration) else 1
        await control.send("failed", message=error.message, status=status)
        return
    log.error("the service failed", exc_info=error)
    await control.send("failed", message=f"{type(error).__name__}; the log says more", status=1)


app = EnvoyApp()
