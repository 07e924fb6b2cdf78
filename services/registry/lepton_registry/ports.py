"""What the domain asks of the world: records in transactions, and what storage holds.

The records are synchronous: a function over them runs as one transaction in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from lepton_registry.records import Hold, Model, Phase, Version

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

    def before(
        self, workspace: str, model: str, before: int | None, limit: int
    ) -> Sequence[Version]:
        """Versions with numbers below ``before``, newest first, without their reports."""


class Holds(Protocol):
    """What the registry holds in storage, or still has to let go of."""

    def add(self, hold: Hold) -> None: ...

    def conclude(self, hold_id: str, phase: Phase) -> bool:
        """Ends REGISTERING: KEPT, and held for certain, or RELEASED. False if it ended before."""

    def delete(self, workspace: str, model: str) -> None:
        """Those that are KEPT for the model's versions become DELETED."""

    def release(self, before: datetime) -> None:
        """Those REGISTERING since longer become RELEASED."""

    def unheld(self, limit: int) -> Sequence[Hold]:
        """Those that storage should have and may not: versions registered before holds were.

        Those DELETED since are among them. Oldest first.
        """

    def held(self, hold_id: str) -> None:
        """Storage has it."""

    def ended(self, limit: int) -> Sequence[Hold]:
        """Those that are RELEASED, or DELETED and held. Oldest first."""

    def forget(self, hold_id: str) -> None:
        """Storage has let go of it."""


class Records(Protocol):
    """Every aggregate, in one transaction."""

    @property
    def models(self) -> Models: ...
    @property
    def versions(self) -> Versions: ...
    @property
    def holds(self) -> Holds: ...


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

    async def hold(self, hold: Hold) -> None:
        """Keeps the files from being deleted, on the registry's own authority. May be repeated.

        One that is missing is an error while the hold is REGISTERING, and left out later.
        Raises LeptonError, NotFound for one that is missing.
        """

    async def release(self, hold: Hold) -> None:
        """Lets go of the files; of one that is DELETED, deletes those that no other hold keeps.

        May be repeated. Raises LeptonError.
        """
