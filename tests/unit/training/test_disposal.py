"""What is discarded is deleted in the end, and nothing is forgotten before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from lepton_mesh.errors import Internal, LeptonError, Unavailable
from lepton_storage.errors import ArtifactHeld
from lepton_training.disposal import Disposal
from lepton_training.ports import JobRepository


@dataclass
class Records:
    """The part of ``JobRepository`` that is asked."""

    names: list[tuple[str, str]]

    async def discarded(self, limit: int) -> list[tuple[str, str]]:
        return self.names[:limit]

    async def forget_discarded(self, workspace: str, artifact: str) -> None:
        self.names.remove((workspace, artifact))


@dataclass
class Storage:
    """``Checkpoints`` that refuses what it is told to."""

    refused: dict[str, LeptonError] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def delete(self, workspace: str, artifact: str) -> None:
        self.asked.append((workspace, artifact))
        if artifact in self.refused:
            raise self.refused[artifact]


async def test_what_storage_deleted_is_forgotten() -> None:
    """In the workspace that it was in; the next turn has nothing to do."""
    names = [("w", "artifacts/1"), ("other", "artifacts/2")]
    records, storage = Records(list(names)), Storage()
    disposal = Disposal(cast(JobRepository, records), storage)
    await disposal.turn()
    await disposal.turn()
    assert (storage.asked, records.names) == (names, [])


async def test_what_storage_does_not_delete_is_tried_again() -> None:
    """One that it refuses holds up no other; while it is away nobody is asked in vain."""
    records = Records([("w", f"artifacts/{number}") for number in (1, 2, 3)])
    storage = Storage({"artifacts/1": Internal("a bug"), "artifacts/3": Unavailable("away")})
    disposal = Disposal(cast(JobRepository, records), storage)
    await disposal.turn()
    assert records.names == [("w", "artifacts/1"), ("w", "artifacts/3")]
    storage.refused = {"artifacts/1": Unavailable("away")}
    storage.asked.clear()
    await disposal.turn()
    assert storage.asked == [("w", "artifacts/1")]
    storage.refused = {}
    await disposal.turn()
    assert records.names == []


async def test_what_a_model_holds_is_left_to_the_model() -> None:
    """Storage deletes it with the model; asking until then would be in vain."""
    records = Records([("w", "artifacts/1"), ("w", "artifacts/2")])
    storage = Storage({"artifacts/1": ArtifactHeld("models/m needs it")})
    await Disposal(cast(JobRepository, records), storage).turn()
    assert (storage.asked[-1], records.names) == (("w", "artifacts/2"), [])
