"""What the domain needs from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Set
from pathlib import Path
from typing import Protocol

from lepton_inference.endpoint import Endpoint, ModelVersion


class Endpoints(Protocol):
    """The record of all endpoints."""

    async def add(self, endpoint: Endpoint) -> None:
        """Writes a new one; raises EndpointExists."""
        ...

    async def get(self, workspace: str, endpoint_id: str) -> Endpoint:
        """Raises EndpointNotFound."""
        ...

    async def page(self, workspace: str, after: str, limit: int) -> list[Endpoint]:
        """In order of id, those after ``after``."""
        ...

    async def all(self) -> list[Endpoint]:
        """Those of every workspace."""
        ...

    async def change(
        self, workspace: str, endpoint_id: str, change: Callable[[Endpoint], Endpoint]
    ) -> Endpoint:
        """Replaces one by ``change`` of it, atomically; raises EndpointNotFound."""
        ...

    async def delete(self, workspace: str, endpoint_id: str) -> None:
        """Raises EndpointNotFound."""
        ...


class Registry(Protocol):
    """The models that may be served."""

    async def resolve(self, name: str) -> ModelVersion:
        """The version that ``name`` means now, with the authority of the current caller."""
        ...

    async def newest(self) -> dict[str, str]:
        """Ids of the current caller's models that have a version -> the newest one's number."""
        ...


class Artifacts(Protocol):
    """The bytes of models."""

    def read(self, workspace: str, artifact: str) -> AsyncIterator[bytes]:
        """An artifact's bytes, in pieces, with this service's own authority."""
        ...


class Models(Protocol):
    """Models on this machine, by digest."""

    async def get(self, sha256: str, artifact: str, content: AsyncIterator[bytes]) -> Path:
        """The file of the model with that digest, read from ``content`` if it is not there.

        Raises what ``content`` raises, and DataLoss where it is something else.
        """
        ...

    async def keep(self, digests: Set[str]) -> None:
        """Removes every other model."""
        ...
