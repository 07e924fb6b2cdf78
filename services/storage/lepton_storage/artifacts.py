"""Artifacts: single files that something made."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lepton_mesh.authorization import CallerNotAllowed, RoleTooLow
from lepton_mesh.caller import Caller, Role
from lepton_mesh.resources import Page
from lepton_storage.blobs import Blobs
from lepton_storage.errors import StorageRequestInvalid, artifact_not_found
from lepton_storage.ports import ArtifactRecords
from lepton_storage.records import Artifact, Hold
from lepton_storage.texts import MAX_NAME, check_labels, check_text
from lepton_storage.threads import IoThreads
from lepton_storage.uploads import Uploads

_HOLD_ID = re.compile(r"[0-9a-f]{32}")
CHECKPOINT_MEDIA_TYPE = "application/vnd.lepton.checkpoint"
"""Of what a job goes on from; the training service stores nothing else under it."""


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """An artifact that is to be made."""

    sha256: str
    media_type: str
    filename: str
    source: str
    """What made it; a job's own name stands here whatever the job says."""
    labels: Mapping[str, str]


class Artifacts:
    """Makes, finds and deletes artifacts."""

    def __init__(
        self, records: ArtifactRecords, uploads: Uploads, blobs: Blobs, threads: IoThreads
    ) -> None:
        self._records = records
        self._uploads = uploads
        self._blobs = blobs
        self._threads = threads

    async def create(self, caller: Caller, new: NewArtifact) -> Artifact:
        """Raises BlobNotFound, StorageRequestInvalid."""
        check_labels(new.labels)
        for field in ("media_type", "filename", "source"):
            check_text(field, getattr(new, field), MAX_NAME)
        if "/" in new.filename:
            raise StorageRequestInvalid("filename cannot have a '/' in it", field="filename")
        if caller.kind != "job" and new.source.startswith("jobs/"):
            # A job reads what it is the source of.
            raise StorageRequestInvalid(
                "source 'jobs/...' is for artifacts that a job uploads; leave it out, or name "
                "what made the file otherwise",
                field="source",
            )
        return await self._threads.run(self._create, caller, new)

    async def get(self, caller: Caller, id: str) -> Artifact:
        """Jobs get what they made themselves and what their token lets them read.

        Raises ResourceNotGranted (jobs), ArtifactNotFound.
        """
        artifact = await self._threads.run(self._records.get, caller.workspace, id)
        if artifact is None or artifact.source != caller.subject:
            caller.require_read(f"artifacts/{id}")
        if artifact is None:
            raise artifact_not_found(id)
        return artifact

    async def list(self, caller: Caller, page: Page) -> tuple[Sequence[Artifact], str]:
        """Newest first, and the token of the next page."""
        before = page.after[0] if page.after else 0
        found = await self._threads.run(self._records.list, caller.workspace, before, page.size + 1)
        more = len(found) > page.size
        return found[: page.size], page.token(found[page.size - 1].sequence) if more else ""

    async def delete(self, caller: Caller, id: str) -> None:
        """Deletes an artifact, and soon its bytes if nothing else uses them.

        What a job made it may be about to register, so only admins delete it. A service, on its own
        behalf, deletes checkpoints of jobs and nothing else.

        Raises ArtifactNotFound, ArtifactHeld, RoleTooLow, CallerNotAllowed.
        """
        artifact = await self._threads.run(self._records.get, caller.workspace, id)
        if artifact is not None and caller.kind == "service":
            _require_checkpoint(caller, artifact)
        elif artifact is not None and artifact.source.startswith("jobs/"):
            _require_admin(caller, artifact)
        if not await self._threads.run(self._records.delete, caller.workspace, id):
            raise artifact_not_found(id)
        self._blobs.collect_soon()

    async def hold(self, hold: Hold, *, allow_missing: bool) -> None:
        """Keeps artifacts from being deleted; again with the same id changes nothing.

        Raises ArtifactNotFound, unless ``allow_missing``, and then holds none.
        """
        check_text("holder", hold.holder, MAX_NAME)
        _check_hold(hold.id)
        await self._threads.run(self._records.hold, hold, allow_missing)

    async def release(self, caller: Caller, hold_id: str, *, delete_unheld: bool) -> None:
        """Ends a hold, if there is one; ``delete_unheld`` deletes what no other hold keeps."""
        _check_hold(hold_id)
        await self._threads.run(self._records.release, caller.workspace, hold_id, delete_unheld)
        self._blobs.collect_soon()

    def _create(self, caller: Caller, new: NewArtifact) -> Artifact:
        return self._records.create(
            Artifact(
                id=uuid.uuid4().hex,
                workspace=caller.workspace,
                blob=self._uploads.blob(caller, new.sha256),
                media_type=new.media_type or "application/octet-stream",
                filename=new.filename,
                source=caller.subject if caller.kind == "job" else new.source,
                labels=new.labels,
                create_time=datetime.now(UTC),
            )
        )


def _require_checkpoint(caller: Caller, artifact: Artifact) -> None:
    of_job = artifact.source.startswith("jobs/")
    if not of_job or artifact.media_type != CHECKPOINT_MEDIA_TYPE:
        raise CallerNotAllowed(
            f"'{artifact.name}' is no checkpoint of a job, and '{caller.subject}' may delete "
            "nothing else on its own behalf",
            artifact=artifact.name,
            caller_kind=caller.kind,
        )


def _require_admin(caller: Caller, artifact: Artifact) -> None:
    if caller.role < Role.ADMIN:
        raise RoleTooLow(
            f"'{artifact.name}' was made by '{artifact.source}', and deleting it needs the role "
            f"'admin' in workspace '{caller.workspace}'; ask an admin of the workspace",
            required="admin",
            role=caller.role.name.lower(),
            workspace=caller.workspace,
        )


def _check_hold(id: str) -> None:
    if not _HOLD_ID.fullmatch(id):
        raise StorageRequestInvalid("hold is not 32 lower-case hex digits", field="hold")
