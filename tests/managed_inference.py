"""What one process of the inference service has, without the mesh around it.

Endpoints are on record in SQLite, the registry and the storage are dictionaries, and everything
between is the service's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from lepton_inference.adapters import onnx_runtime
from lepton_inference.adapters.model_cache import ModelCache
from lepton_inference.adapters.sql_endpoints import SqlEndpoints
from lepton_inference.changes import Changes
from lepton_inference.deployer import Deployer
from lepton_inference.endpoint import ModelVersion
from lepton_inference.endpoints import EndpointManager
from lepton_inference.first_loads import FIRST_LOAD_SECONDS
from lepton_inference.loader import LoadSession
from lepton_inference.repository import Repository
from lepton_inference.serving import Serving
from lepton_mesh.caller import current_caller
from lepton_mesh.database import Database
from lepton_mesh.errors import NotFound
from lepton_mesh.telemetry import Telemetry


class TestModelNotFound(NotFound):
    """As the registry's own error arrives."""

    __test__ = False
    reason = "TEST_MODEL_NOT_FOUND"


class Models:
    """A registry and a storage: names such as ``m/1`` -> content, and aliases to such names."""

    def __init__(self, content: Mapping[str, bytes]) -> None:
        self.content = dict(content)
        self.aliases: dict[str, str] = {}
        self.askers: list[str] = []
        """For whom the registry was asked."""

    async def resolve(self, name: str) -> ModelVersion:
        self.askers.append(current_caller().subject)
        _, model, kind, which = name.split("/")
        if kind == "aliases":
            which = self.aliases[f"{model}/{which}"]
        elif which == "latest":
            which = (await self.newest()).get(model, "")
        content = self.content.get(f"{model}/{which}")
        if content is None:
            error = TestModelNotFound(f"there is no model '{model}'")
            error.reason = "MODEL_NOT_FOUND"
            raise error
        digest = hashlib.sha256(content).hexdigest()
        return ModelVersion(f"models/{model}/versions/{which}", f"{model}/{which}", digest)

    async def newest(self) -> dict[str, str]:
        self.askers.append(current_caller().subject)
        return dict(sorted(name.split("/") for name in self.content))

    async def read(self, workspace: str, artifact: str) -> AsyncIterator[bytes]:
        yield self.content[artifact]


class ManagedInference:
    """Made and used on the event loop that serves. Databases may be shared, caches not."""

    def __init__(
        self,
        models: Models,
        database: Path,
        cache: Path,
        *,
        telemetry: Telemetry | None = None,
        load: LoadSession = onnx_runtime.load,
        first_load_seconds: float = FIRST_LOAD_SECONDS,
    ) -> None:
        self.models = models
        self._database = Database.open(f"sqlite:///{database}", "lepton_inference.migrations")
        self.endpoints = SqlEndpoints(self._database)
        self.serving = Serving(telemetry)
        changes = Changes()
        self.deployer = Deployer(
            endpoints=self.endpoints,
            artifacts=models,
            cache=ModelCache(cache),
            serving=self.serving,
            load=load,
            platform=onnx_runtime.PLATFORM,
            changes=changes,
            first_load_seconds=first_load_seconds,
        )
        self.manager = EndpointManager(self.endpoints, models, self.deployer, changes)
        self.repository = Repository(self.manager, models)

    async def close(self) -> None:
        await self.deployer.close()
        self._database.close()
