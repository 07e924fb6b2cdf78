"""RegistryService: each method parses its request, calls the domain and converts the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf import empty_pb2

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton.api.registry.v1 import registry_pb2_grpc
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.resources import Page, check_id, parse_name
from lepton_registry import convert
from lepton_registry.records import Version
from lepton_registry.registry import Registry

_METHOD = "/lepton.api.registry.v1.RegistryService/"
_READ = Rule(min_role=Role.VIEWER)
_CHANGE = Rule(min_role=Role.DEVELOPER)

# A job that may call is held to its own models by the domain.
TABLE = AuthorizationTable(
    {
        _METHOD + "CreateModel": Rule(min_role=Role.DEVELOPER, jobs=True),
        _METHOD + "GetModel": Rule(min_role=Role.VIEWER, jobs=True),
        _METHOD + "ListModels": _READ,
        _METHOD + "UpdateModel": _CHANGE,
        _METHOD + "DeleteModel": Rule(min_role=Role.ADMIN),
        _METHOD + "CreateModelVersion": Rule(min_role=Role.DEVELOPER, jobs=True),
        _METHOD + "GetModelVersion": Rule(
            min_role=Role.VIEWER, services=frozenset({"inference", "training"})
        ),
        _METHOD + "ListModelVersions": _READ,
        _METHOD + "UpdateModelVersion": _CHANGE,
        _METHOD + "SetAlias": _CHANGE,
        _METHOD + "DeleteAlias": _CHANGE,
    }
)


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """The record of every model."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def CreateModel(self, request: pb.CreateModelRequest, context: Any) -> pb.Model:
        model_id = check_id(request.model_id, "model_id")
        model = await self._registry.create_model(
            current_caller(), model_id, request.model.description, dict(request.model.labels)
        )
        return convert.model_message(model)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.Model:
        (model_id,) = parse_name("models/{model}", request.name)
        return convert.model_message(await self._registry.get_model(current_caller(), model_id))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        page = Page.of(request, "models", str)
        (after,) = page.after or ("",)
        models, more = await self._registry.list_models(current_caller(), after, page.size)
        return convert.models_page(page, models, more)

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Any) -> pb.Model:
        (model_id,) = parse_name("models/{model}", request.model.name)
        model = await self._registry.update_model(
            current_caller(), model_id, request.model.etag, convert.model_change(request)
        )
        return convert.model_message(model)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> empty_pb2.Empty:
        (model_id,) = parse_name("models/{model}", request.name)
        await self._registry.delete_model(current_caller(), model_id)
        return empty_pb2.Empty()

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Any
    ) -> pb.ModelVersion:
        (model_id,) = parse_name("models/{model}", request.parent)
        version = await self._registry.create_version(
            current_caller(),
            model_id,
            await asyncio.to_thread(convert.version, request.model_version),
            request.request_id,
        )
        return await _version_message(version)

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Any
    ) -> pb.ModelVersion:
        caller = current_caller()
        if request.name.split("/")[2:3] == ["aliases"]:
            model_id, alias = parse_name("models/{model}/aliases/{alias}", request.name)
            version = await self._registry.resolve_alias(caller, model_id, alias)
        else:
            model_id, number = parse_name("models/{model}/versions/{version}", request.name)
            version = await self._registry.get_version(caller, model_id, number)
        return await _version_message(version)

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        (model_id,) = parse_name("models/{model}", request.parent)
        page = Page.of(request, f"models/{model_id}/versions", int)
        (before,) = page.after or (None,)
        versions, more = await self._registry.list_versions(
            current_caller(), model_id, before, page.size
        )
        return await asyncio.to_thread(convert.versions_page, page, versions, more)

    async def UpdateModelVersion(
        self, request: pb.UpdateModelVersionRequest, context: Any
    ) -> pb.ModelVersion:
        message = request.model_version
        model_id, number = parse_name("models/{model}/versions/{version}", message.name)
        version = await self._registry.update_version(
            current_caller(), model_id, number, message.etag, convert.version_change(request)
        )
        return await _version_message(version)

    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.Model:
        (model_id,) = parse_name("models/{model}", request.model)
        alias = check_id(request.alias, "alias")
        number = convert.number_of(request.version, model_id)
        return convert.model_message(
            await self._registry.set_alias(current_caller(), model_id, alias, number)
        )

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Any) -> pb.Model:
        (model_id,) = parse_name("models/{model}", request.model)
        alias = check_id(request.alias, "alias")
        return convert.model_message(
            await self._registry.delete_alias(current_caller(), model_id, alias)
        )


async def _version_message(version: Version) -> pb.ModelVersion:
    # In a thread, as everything with a version's documents: a large one takes up to a second.
    return await asyncio.to_thread(convert.version_message, version)
