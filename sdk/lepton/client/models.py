"""The registry: models and their versions."""

from __future__ import annotations

from collections.abc import Iterator

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lepton.client.errors import translated
from lepton.client.names import model_name, model_version_name
from lepton.client.pages import items


class ModelClient:
    """Reads the registry. Every method raises :class:`lepton.client.ApiError`."""

    def __init__(self, stub: RegistryServiceStub) -> None:
        self._stub = stub

    def list(self) -> Iterator[pb.Model]:
        """Yields every model of the workspace, in order of name."""
        return items(
            lambda token: self._stub.ListModels(pb.ListModelsRequest(page_token=token), timeout=30),
            lambda page: page.models,
        )

    def get(self, model: str) -> pb.Model:
        """Returns a model by id or resource name."""
        with translated():
            return self._stub.GetModel(pb.GetModelRequest(name=model_name(model)), timeout=30)

    def versions(self, model: str) -> Iterator[pb.ModelVersion]:
        """Yields the versions of a model, newest first, without evaluation and parity."""
        return items(
            lambda token: self._stub.ListModelVersions(
                pb.ListModelVersionsRequest(parent=model_name(model), page_token=token), timeout=30
            ),
            lambda page: page.model_versions,
        )

    def version(self, name: str) -> pb.ModelVersion:
        """Returns a version: ``m/3``, ``m/production`` or a full resource name."""
        with translated():
            return self._stub.GetModelVersion(
                pb.GetModelVersionRequest(name=model_version_name(name)), timeout=30
            )

    def set_alias(self, model: str, alias: str, version: str) -> pb.Model:
        """Points an alias at a version, or moves it."""
        with translated():
            return self._stub.SetAlias(
                pb.SetAliasRequest(
                    model=model_name(model), alias=alias, version=model_version_name(version)
                ),
                timeout=30,
            )

    def delete_alias(self, model: str, alias: str) -> pb.Model:
        """Removes an alias."""
        with translated():
            return self._stub.DeleteAlias(
                pb.DeleteAliasRequest(model=model_name(model), alias=alias), timeout=30
            )

    def delete(self, model: str) -> None:
        """Deletes a model with its versions and aliases."""
        with translated():
            self._stub.DeleteModel(pb.DeleteModelRequest(name=model_name(model)), timeout=60)
