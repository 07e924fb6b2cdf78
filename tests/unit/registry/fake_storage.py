"""Storage that holds what it is told to, and versions of what it has."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from lepton_mesh.errors import NotFound, Unavailable
from lepton_registry.ports import Artifact
from lepton_registry.records import Hold, Lineage, Phase, Signature, Version

SHA = "a" * 64


class FakeArtifacts:
    """The Artifacts port."""

    def __init__(self) -> None:
        self.stored = {"artifacts/a1": Artifact(SHA, 1234)}
        self.holds: dict[str, set[str]] = {}
        """By id, what is held."""
        self.asked = 0
        self.away = False
        """Whether holds and releases fail."""
        self.refused = asyncio.Event()
        self.released = asyncio.Event()

    async def find(self, name: str) -> Artifact | None:
        self.asked += 1
        return self.stored.get(name)

    async def hold(self, hold: Hold) -> None:
        self._require_here()
        there = set(hold.artifacts) & self.stored.keys()
        if hold.phase is Phase.REGISTERING and len(there) < len(hold.artifacts):
            raise NotFound("not stored")
        self.holds[hold.id] = there

    async def release(self, hold: Hold) -> None:
        self._require_here()
        released = self.holds.pop(hold.id, set())
        if hold.phase is Phase.DELETED:
            for name in released.difference(*self.holds.values()):
                del self.stored[name]
        self.released.set()

    def _require_here(self) -> None:
        if self.away:
            self.refused.set()
            raise Unavailable("storage is away")


def new_version(**changes: object) -> Version:
    """A version of ``artifacts/a1`` to be registered."""
    version = Version(
        artifact="artifacts/a1",
        sha256=SHA,
        signature=Signature(),
        metrics={"test_accuracy": 0.99},
        evaluation={},
        parity={},
        lineage=Lineage(),
        class_names=(),
        description="",
        labels={},
        attachments={},
    )
    return replace(version, **changes)
