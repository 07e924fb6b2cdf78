"""InferenceService: each method parses its request, calls the domain and converts the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton.api.inference.v1 import inference_pb2_grpc
from lepton_inference.convert import endpoint_message, wanted_of
from lepton_inference.endpoint import Endpoint
from lepton_inference.endpoints import EndpointManager
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.resources import Page, check_id, masked_fields, parse_name

_METHOD = "/lepton.api.inference.v1.InferenceService/"
_VIEWER = Rule(min_role=Role.VIEWER)
_DEVELOPER = Rule(min_role=Role.DEVELOPER)

TABLE = AuthorizationTable(
    {
        _METHOD + "CreateEndpoint": _DEVELOPER,
        _METHOD + "GetEndpoint": _VIEWER,
        _METHOD + "ListEndpoints": _VIEWER,
        _METHOD + "UpdateEndpoint": _DEVELOPER,
        _METHOD + "DeleteEndpoint": _DEVELOPER,
        _METHOD + "WatchEndpoint": _VIEWER,
    }
)

_NAME = "endpoints/{endpoint}"
_MUTABLE = (
    "targets",
    "batching",
    "execution",
    "shadow",
    "ensemble",
    "sequences",
    "response_cache_bytes",
    "unloaded",
    "description",
    "labels",
)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Endpoints of the caller's workspace."""

    def __init__(self, manager: EndpointManager, draining: asyncio.Event) -> None:
        self._manager = manager
        self._draining = draining

    async def CreateEndpoint(self, request: pb.CreateEndpointRequest, context: Any) -> pb.Endpoint:
        caller = current_caller()
        endpoint = await self._manager.create(
            workspace=caller.workspace,
            endpoint_id=check_id(request.endpoint_id, "endpoint_id"),
            creator=caller.subject,
            wanted=wanted_of(request.endpoint),
        )
        return self._message(endpoint)

    async def GetEndpoint(self, request: pb.GetEndpointRequest, context: Any) -> pb.Endpoint:
        (endpoint_id,) = parse_name(_NAME, request.name)
        return self._message(await self._manager.get(current_caller().workspace, endpoint_id))

    async def ListEndpoints(
        self, request: pb.ListEndpointsRequest, context: Any
    ) -> pb.ListEndpointsResponse:
        page = Page.of(request, "endpoints", str)
        after = str(page.after[0]) if page.after else ""
        found = await self._manager.page(current_caller().workspace, after, page.size + 1)
        shown = found[: page.size]
        return pb.ListEndpointsResponse(
            endpoints=[self._message(endpoint) for endpoint in shown],
            next_page_token=page.token(shown[-1].id) if len(found) > page.size else "",
        )

    async def UpdateEndpoint(self, request: pb.UpdateEndpointRequest, context: Any) -> pb.Endpoint:
        wanted = request.endpoint
        (endpoint_id,) = parse_name(_NAME, wanted.name)
        fields = masked_fields(request.update_mask, wanted, _MUTABLE)
        endpoint = await self._manager.update(
            current_caller().workspace,
            endpoint_id,
            etag=wanted.etag,
            wanted=wanted_of(wanted),
            fields=fields,
        )
        return self._message(endpoint)

    async def DeleteEndpoint(
        self, request: pb.DeleteEndpointRequest, context: Any
    ) -> empty_pb2.Empty:
        (endpoint_id,) = parse_name(_NAME, request.name)
        await self._manager.delete(current_caller().workspace, endpoint_id)
        return empty_pb2.Empty()

    async def WatchEndpoint(
        self, request: pb.WatchEndpointRequest, context: Any
    ) -> AsyncIterator[pb.Endpoint]:
        (endpoint_id,) = parse_name(_NAME, request.name)
        workspace = current_caller().workspace
        async for endpoint in self._manager.watch(workspace, endpoint_id, self._draining):
            yield self._message(endpoint)

    def _message(self, endpoint: Endpoint) -> pb.Endpoint:
        return endpoint_message(
            endpoint, self._manager.comparison(endpoint), self._manager.activity(endpoint)
        )
