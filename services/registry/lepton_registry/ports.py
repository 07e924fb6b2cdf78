"""What the domain asks of the world: records in transactions, and what storage holds.

The records are synchronous: a function over them runs as one transaction in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lepton_registry.records import Model, Version

T = TypeVar("T")


class Models(Protocol):
    """The models of one workspace each, with their aliases."""

    def get(self, workspace: str, model: str) -> Model | None:
        """The model; in a transaction that writes, held until it ends."""

    def add(self, workspace: str, model: Model) -> bool:
        """False if the id is taken; nothing changes then."""

    def replace(self, workspace: str, model: Model) -> None:
        """Stores ``model`` in place of the one with its id, aliases included."""

    def delete(self, workspace: str, model: str) -> None:
        """Removes the model with its versions and aliases."""

    def after(self, workspace: str, after: str, limit: int) -> Sequence[Model]:
        """Models with ids above ``after``, in order of id."""


class Versions(Protocol):
    """The versions of models."""

    def get(self, workspace: str, model: str, number: int) -> Version | None: ...

    def find_request(self, workspace: str, model: str, request_id: str) -> Version | None:
        """The version that was registered with this request id."""

    def add(self, workspace: str, version: Version) -> None: ...

    def update(self, workspace: str, version: Version) -> None:
        """Stores description, labels, state and revision; nothing else ever changes."""

    def files(self, workspace: str) -> Sequence[tuple[str, str]]:
        """``(model, artifact)`` of every version's file and attachments in the workspace."""

    def before(
        self, workspace: str, model: str, before: int | None, limit: int
    ) -> Sequence[Version]:
        """Versions with numbers below ``before``, newest first, without their reports."""


class Records(Protocol):
    """Every aggregate, in one transaction."""

    @property
    def models(self) -> Models: ...
    @property
    def versions(self) -> Versions: ...


class Store(Protocol):
    """Transactions. A function given to it may run twice and must have no other effect."""

    async def read(self, function: Callable[[Records], T]) -> T: ...

    async def write(self, function: Callable[[Records], T]) -> T:
        """Keeps what ``function`` changed when it returns, and nothing if it raises."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file in storage."""

    sha256: str
    size_bytes: int


class Artifacts(Protocol):
    """What storage holds."""

    async def find(self, name: str) -> Artifact | None:
        """The artifact ``artifacts/{artifact}`` of the caller's workspace; None if there is none.

        Raises PermissionDenied for one that the caller may not read.
        """

    async def delete(self, name: str) -> None:
        """Deletes the artifact, with the caller's own authority. Raises LeptonError."""
