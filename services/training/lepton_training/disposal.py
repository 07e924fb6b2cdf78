"""Deletes from storage the checkpoints that no job's record names any more.

The record of what is to be deleted is written in the transaction that gives a checkpoint up, and
forgotten once storage has deleted it: storage may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import logging

from lepton_mesh.errors import DeadlineExceeded, LeptonError, Unavailable
from lepton_training.ports import Checkpoints, JobRepository

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0
"""Between two looks at what is to be deleted."""
_AT_ONCE = 100
_HELD = "ARTIFACT_HELD"
"""Somebody registered the checkpoint as a file of a model: storage deletes it with the model."""


class Disposal:
    """Works from :meth:`start` to :meth:`close`; several instances of the service may."""

    def __init__(self, repository: JobRepository, checkpoints: Checkpoints) -> None:
        self._repository = repository
        self._checkpoints = checkpoints
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins at once with what an earlier life of the service left."""
        self._loop = asyncio.create_task(self._run(), name="discarded checkpoints")

    async def close(self) -> None:
        """Leaves the rest to the next life of the service."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.turn()
            except Exception:  # whatever it is, what is discarded must not stay for ever
                log.exception("discarded checkpoints cannot be read; trying again")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def turn(self) -> None:
        """Deletes what is to be deleted now; what storage does not delete stays for later."""
        for workspace, artifact in await self._repository.discarded(_AT_ONCE):
            try:
                await self._checkpoints.delete(workspace, artifact)
            except LeptonError as error:
                if error.reason != _HELD:
                    fields = {"workspace": workspace, "artifact": artifact, "error": error.message}
                    log.warning(
                        "a discarded checkpoint is not deleted yet; trying again", extra=fields
                    )
                    if isinstance(error, Unavailable | DeadlineExceeded):
                        return  # nor would the others be
                    continue
            await self._repository.forget_discarded(workspace, artifact)
