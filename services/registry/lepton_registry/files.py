"""The files of versions: checked before a version is registered, held while it is, let go after.

Storage deletes no artifact that is held. A hold begins before its version is registered and ends
after its model was deleted, and this database knows of it all the while, so whatever stops in
between, :meth:`Files.settle` brings it to its end later:

    hold() ──> REGISTERING ── the version is registered ──> KEPT ── its model is deleted ──> DELETED
                    └── it never is ──> RELEASED
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

from lepton_mesh.caller import Caller
from lepton_mesh.errors import LeptonError, NotFound
from lepton_registry.errors import ArtifactMismatch
from lepton_registry.ports import Artifacts, Store
from lepton_registry.records import Hold, Phase, Version

log = logging.getLogger(__name__)

REGISTRATION = timedelta(minutes=15)
"""After this a registration is taken for abandoned; one takes seconds."""
_PAUSE_SECONDS = 60.0
"""Between rounds in which nobody deletes a model; storage that is away comes back meanwhile."""
_AT_ONCE = 100


class Files:
    """Holds files of versions in storage, and lets them go."""

    def __init__(self, store: Store, artifacts: Artifacts, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._artifacts = artifacts
        self._clock = clock
        self._wanted = asyncio.Event()

    async def hold(self, caller: Caller, model_id: str, version: Version) -> tuple[str, int]:
        """Holds the files of a version to be registered: the hold's id, and the model's bytes.

        Raises ArtifactMismatch unless all files are in storage, and the model is the one meant.
        """
        size_bytes = await self._check(version)
        hold = Hold(
            id=uuid.uuid4().hex,
            workspace=caller.workspace,
            model=model_id,
            artifacts=sorted({version.artifact, *version.attachments.values()}),
            phase=Phase.REGISTERING,
            since=self._clock(),
        )
        await self._store.write(lambda records: records.holds.add(hold))
        try:
            await self._artifacts.hold(hold)
        except NotFound:
            raise ArtifactMismatch(
                "a file of the version was deleted from storage just now; upload it again",
                artifact=version.artifact,
            ) from None
        return hold.id, size_bytes

    def wake(self) -> None:
        """Holds have ended: :meth:`run` need not wait for its next round."""
        self._wanted.set()

    async def run(self) -> None:
        """Settles what there is to settle, for as long as the service runs."""
        while True:
            self._wanted.clear()
            try:
                while await self.settle():
                    pass
            except LeptonError as error:
                log.warning(
                    "files of models wait for storage",
                    extra={"reason": error.reason, "again_in_seconds": _PAUSE_SECONDS},
                )
            except Exception:  # an absent database or a full disk: the next round may go well
                log.exception("files of models were not settled")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _PAUSE_SECONDS)

    async def settle(self) -> bool:
        """Tells storage some of what it does not know yet; whether there may be more.

        Raises LeptonError when storage cannot be told; then it is tried again later, in the same
        order.
        """
        abandoned = self._clock() - REGISTRATION
        await self._store.write(lambda records: records.holds.release(abandoned))
        # All of these first: storage may delete what it knows no other hold of.
        unheld = await self._store.read(lambda records: records.holds.unheld(_AT_ONCE))
        for hold in unheld:
            await self._make(hold)
        if unheld:
            return True
        ended = await self._store.read(lambda records: records.holds.ended(_AT_ONCE))
        for hold in ended:
            await self._end(hold)
        return bool(ended)

    async def _make(self, hold: Hold) -> None:
        await self._artifacts.hold(hold)
        await self._store.write(lambda records: records.holds.held(hold.id))

    async def _end(self, hold: Hold) -> None:
        await self._artifacts.release(hold)
        await self._store.write(lambda records: records.holds.forget(hold.id))

    async def _check(self, version: Version) -> int:
        """The size of the model's file; raises ArtifactMismatch unless all files are there."""
        file, *attached = await asyncio.gather(
            *(
                self._artifacts.find(name)
                for name in (version.artifact, *version.attachments.values())
            )
        )
        if file is None or file.sha256 != version.sha256:
            raise ArtifactMismatch(
                f"'{version.artifact}' is not in storage; upload it first"
                if file is None
                else f"'{version.artifact}' has SHA-256 {file.sha256} in storage, not "
                f"{version.sha256}; name the artifact that holds this model",
                artifact=version.artifact,
            )
        for name, other in zip(version.attachments.values(), attached, strict=True):
            if other is None:
                raise ArtifactMismatch(
                    f"'{name}' is not in storage; upload it first", artifact=name
                )
        return file.size_bytes
