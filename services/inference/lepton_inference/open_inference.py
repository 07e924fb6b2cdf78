"""The Open Inference Protocol, free of any transport: serialized requests in, responses out.

Both adapters call :meth:`OpenInference.call` for every unary method but ModelInfer, which has
ways of its own because it is the one that must be fast. A workspace's caller sees that
workspace's endpoints as the server's models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference import reports
from lepton_inference.bounds import check_size
from lepton_inference.model import Gone, LoadedModel, Model
from lepton_inference.repository import Repository
from lepton_inference.repository_methods import RepositoryMethods
from lepton_inference.serving import Admitted, Serving, ServingState
from lepton_inference.settings_methods import settings_methods
from lepton_inference.shared_memory_methods import shared_memory_methods
from lepton_inference.shared_tensors import SharedTensors, infer
from lepton_inference.signature import InferenceRequest
from lepton_inference.wire import (
    FRAME,
    MessageInvalid,
    frame,
    parse_request,
    request_of,
    response_of,
)
from lepton_mesh.errors import DeadlineExceeded, Unimplemented
from lepton_mesh.health import ServiceUnknown

SERVICES = ("inference.GRPCInferenceService", "lepton.oip.v2.GRPCInferenceService")
HEALTH_SERVICE = "grpc.health.v1.Health"
SERVER_NAME = "lepton"
EXTENSIONS: tuple[str, ...] = (
    "binary_tensor_data",
    "classification",
    "parameters",
    "schedule_policy",
    "trace",
    "logging",
    "model_configuration",
    "statistics",
    "sequence",
    "sequence(string_id)",
)
"""What is always there, by Triton's names."""

Handler = Callable[[Admitted, Any], Awaitable[Message]]
"""Answers one method: who asks, and the request."""


class MethodUnimplemented(Unimplemented):
    reason = "METHOD_UNIMPLEMENTED"


class CallExpired(DeadlineExceeded):
    """A caller's deadline passed before a method other than inference was done."""

    reason = "CALL_EXPIRED"


class OpenInference:
    """The protocol over what is served now.

    Args:
        serving: What is served.
        repository: What may be loaded and unloaded; None for a server without one.
        shared: Tensors in shared memory; None for a server that takes none.
        loaded: Whether what is to be served from the start is loaded; None for always.
    """

    def __init__(
        self,
        serving: Serving,
        repository: Repository | None = None,
        shared: SharedTensors | None = None,
        loaded: Callable[[], bool] | None = None,
    ) -> None:
        self._loaded = loaded
        self.serving = serving
        self.shared = shared
        self.extensions = EXTENSIONS
        """What is really there, by Triton's names."""
        self.accepting = True
        """False while draining: not ready, and still answering."""
        self._unary: dict[str, tuple[type[Message], Handler]] = {
            "ServerLive": (pb.ServerLiveRequest, self._server_live),
            "ServerReady": (pb.ServerReadyRequest, self._server_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self._server_metadata),
            "ModelReady": (pb.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": (pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": (pb.ModelStatisticsRequest, self._model_statistics),
        }
        methods = RepositoryMethods(repository)
        self._unary |= methods.handlers | settings_methods()
        self.extensions += methods.extensions
        if shared is not None:
            self._unary |= shared_memory_methods(shared.memory)
            self.extensions += shared.memory.extensions

    @property
    def ready(self) -> bool:
        """Whether requests are to be sent here: it does not drain, and has loaded its models."""
        return self.accepting and (self._loaded is None or self._loaded())

    @property
    def methods(self) -> frozenset[str]:
        """Unary methods that :meth:`call` answers."""
        return frozenset(self._unary)

    def add_extension(self, name: str) -> None:
        """Notes what is there because of the way in which the protocol is served."""
        if name not in self.extensions:
            self.extensions += (name,)

    async def call(
        self, method: str, admitted: Admitted, body: bytes, seconds: float | None = None
    ) -> bytes:
        """Answers a unary method.

        Args:
            method: Without its service, such as ``ModelReady``.
            admitted: Who asks.
            body: The serialized request.
            seconds: That the caller will wait; None for no bound.

        Raises:
            MethodUnimplemented: Declared in the protocol and not done here.
            CallExpired: The caller waits no longer.
            LeptonError: As the method says.
        """
        request_type, handler = self._known(method)
        return (
            await _within(seconds, method, handler(admitted, parse(request_type, body)))
        ).SerializeToString()

    async def answer(self, method: str, admitted: Admitted, request: Message) -> Message:
        """As :meth:`call`, for a request that REST has made."""
        _, handler = self._known(method)
        return await handler(admitted, request)

    def _known(self, method: str) -> tuple[type[Message], Handler]:
        known = self._unary.get(method)
        if known is None:
            raise MethodUnimplemented(f"{method} is not supported by this server", method=method)
        return known

    async def infer(
        self,
        admitted: Admitted,
        body: bytes | memoryview,
        seconds: float | None = None,
        gone: Gone | None = None,
    ) -> bytes:
        """Answers ModelInfer.

        Args:
            admitted: Who asks.
            body: The serialized ModelInferRequest.
            seconds: That the caller will wait; None for no bound.
            gone: Whether the caller went away, where the transport does not cancel.
        """
        return (await self._infer(admitted, parse_request(body), seconds, gone))[0]

    async def infer_framed(
        self,
        admitted: Admitted,
        body: bytes,
        seconds: float | None = None,
        gone: Gone | None = None,
    ) -> bytes:
        """As :meth:`infer`, with a gRPC frame around request and response."""
        message = parse_request(memoryview(body)[FRAME:])
        response, model, batch = await self._infer(admitted, message, seconds, gone)
        served = admitted.workspace.endpoints.get(message.model_name)
        if served is not None and isinstance(model, LoadedModel) and served.always(model):
            place = admitted.workspace
            sampler = place.tracing.sampler(message.model_name)
            place.plans.learn(body, message, model, batch, sampler)
        return frame(response)

    def check_health(self, body: bytes) -> bytes:
        """Answers grpc.health.v1.Health/Check; raises ServiceUnknown."""
        request = health_pb2.HealthCheckRequest()
        parse_into(request, body)
        if request.service not in ("", *SERVICES):
            raise ServiceUnknown(
                f"'{request.service}' is not served here; leave the name empty",
                service=request.service,
            )
        return health_pb2.HealthCheckResponse(
            status="SERVING" if self.ready else "NOT_SERVING"
        ).SerializeToString()

    async def _infer(
        self,
        admitted: Admitted,
        message: pb.ModelInferRequest,
        seconds: float | None,
        gone: Gone | None,
    ) -> tuple[bytes, Model, Any]:
        model, request = prepare(admitted, message, seconds)
        checked, outcome, placed = await infer(self.shared, admitted, model, request, gone)
        response = response_of(
            model, outcome, checked.rows, checked.outputs, request.id, placed=placed
        )
        return response, model, outcome[0]

    async def _server_live(self, _: Admitted, __: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: Admitted, __: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready)

    async def _server_metadata(
        self, _: Admitted, __: pb.ServerMetadataRequest
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=server_version(), extensions=self.extensions
        )

    async def _model_ready(
        self, admitted: Admitted, request: pb.ModelReadyRequest
    ) -> pb.ModelReadyResponse:
        served = admitted.workspace.endpoints.get(request.name)
        versions = [model.source.version for model in served.models] if served else []
        ready = (
            served is not None
            and served.standing()[0] is ServingState.READY
            and request.version in ("", *versions)
        )
        return pb.ModelReadyResponse(ready=ready)

    async def _model_metadata(
        self, admitted: Admitted, request: pb.ModelMetadataRequest
    ) -> pb.ModelMetadataResponse:
        served = admitted.workspace.find(request.name)
        return reports.metadata(served, served.pick(request.version))

    async def _model_config(
        self, admitted: Admitted, request: pb.ModelConfigRequest
    ) -> pb.ModelConfigResponse:
        model = admitted.workspace.find(request.name).pick(request.version)
        return pb.ModelConfigResponse(config=reports.config(model))

    async def _model_statistics(
        self, admitted: Admitted, request: pb.ModelStatisticsRequest
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            models = admitted.workspace.find(request.name).counted(request.version)
        else:
            models = list(admitted.workspace.models())
        return pb.ModelStatisticsResponse(
            model_stats=[reports.statistics(model) for model in models]
        )


def prepare(
    admitted: Admitted, message: pb.ModelInferRequest, seconds: float | None
) -> tuple[Model, InferenceRequest]:
    """The model that is to answer, and what it is asked.

    Raises:
        EndpointNotFound, EndpointFailed, EndpointNotReady, VersionNotServed: Nobody is to answer.
        TensorInvalid, ParameterInvalid, ParameterUnsupported: It is not a request.
    """
    served = admitted.workspace.find(message.model_name)
    request = request_of(message)
    request.owner = admitted.caller.subject
    if seconds is not None:
        request.timeout = seconds if request.timeout is None else min(seconds, request.timeout)
    return served.route(request), request


async def _within(seconds: float | None, method: str, answer: Awaitable[Message]) -> Message:
    try:
        async with asyncio.timeout(seconds) as bound:
            return await answer
    except TimeoutError:
        if not bound.expired():
            raise
        raise CallExpired(
            f"the call's deadline passed before {method} was done; what it began goes on",
            method=method,
        ) from None


def parse(request_type: type[Message], body: bytes) -> Message:
    """A message of that type from its bytes; raises MessageInvalid."""
    return parse_into(request_type(), body)


def parse_into(message: Message, body: bytes) -> Message:
    """Fills ``message`` from its bytes; raises MessageInvalid or ContentsTooLarge."""
    check_size(body)
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise MessageInvalid(f"the request is not a {message.DESCRIPTOR.name}") from None
    return message


def server_version() -> str:
    """The version of this distribution."""
    return version("lepton-cloud")
