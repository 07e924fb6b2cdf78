"""Storage and registry over the mesh, with the job's own certificate and token.

The mesh lives in a thread with an event loop of its own, for as long as the job
does, so that its certificate is renewed while the main thread trains.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import mimetypes
import os
import secrets
import threading
import zlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from google.protobuf.struct_pb2 import Struct

from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_mesh.caller import Caller, set_caller
from lepton_mesh.durable import write_private
from lepton_mesh.errors import AlreadyExists, DataLoss, DeadlineExceeded, LeptonError, Unavailable
from lepton_mesh.identity import WorkloadIdentity
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.spiffe import SpiffeId
from lepton_training.config import WorkerSettings
from lepton_training.job_files import CHECKPOINT_FILE, TOKEN_FILE, read_request
from lepton_training.worker.platform import Publication, TensorSpec

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHECKPOINT_MEDIA_TYPE = "application/vnd.lepton.checkpoint"
"""By which storage knows what the training service may delete."""
_CALL_SECONDS = 60.0
_TRANSFER_SECONDS = 3600.0
_CHUNK = 1 << 20
_AWAY_SECONDS = 6 * 3600.0
"""How long a service that does not answer is waited for."""
_REFUSED_SECONDS = 15.0
_CLOSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 30.0


class DatasetDamaged(DataLoss):
    reason = "TRAINING_DATA_DAMAGED"


@dataclass(frozen=True, slots=True)
class _Content:
    """The beginning of a file that is sent, read piece by piece."""

    file: BinaryIO
    size_bytes: int
    sha256: str

    @classmethod
    def whole(cls, file: BufferedReader) -> _Content:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(file, file.tell(), sha256)

    def piece(self, offset: int) -> bytes:
        return os.pread(self.file.fileno(), min(_CHUNK, self.size_bytes - offset), offset)


class MeshPlatform:
    """``Platform`` over the mesh; begins to connect when made."""

    def __init__(self, settings: WorkerSettings) -> None:
        request = read_request(settings.job_dir)
        self._settings = settings
        self._workspace: str = request["workspace"]
        self._job: str = request["job"]
        self._loop = asyncio.new_event_loop()
        # A daemon: the process ends when the job has, whatever the network does.
        threading.Thread(target=self._loop.run_forever, name="mesh", daemon=True).start()
        self._runtime = asyncio.run_coroutine_threadsafe(self._open(), self._loop)

    def fetch_dataset(self, version: str, directory: Path) -> None:
        described = self._run(self._version(version))
        directory.mkdir(exist_ok=True)
        for file in described.files:
            target = directory / file.path
            if not target.resolve().is_relative_to(directory.resolve()):
                raise DatasetDamaged(f"{version} has a file outside of it: '{file.path}'")
            if target.exists() and _sha256(target) == file.sha256:
                continue  # an earlier attempt fetched it
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".part")
            with temporary.open("wb") as out:
                self._run(self._again(partial(self._download, version, file, out)))
            temporary.replace(target)

    def fetch_artifact(self, name: str, sha256: str, target: Path) -> None:
        if target.exists() and _sha256(target) == sha256:
            return  # an earlier attempt fetched it
        temporary = target.with_name(target.name + ".part")
        with temporary.open("wb") as out:
            self._run(self._again(partial(self._read_artifact, name, sha256, out)))
        temporary.replace(target)

    def store_checkpoint(self, file: BinaryIO, size_bytes: int, sha256: str) -> str:
        return self._run(self._store_checkpoint(_Content(file, size_bytes, sha256)))

    def publish(self, publication: Publication) -> str:
        return self._run(self._publish(publication))

    def close(self) -> None:
        self._runtime.cancel()
        if self._runtime.cancelled() or self._runtime.exception() is not None:
            return  # it never joined
        closing = asyncio.run_coroutine_threadsafe(self._runtime.result().close(), self._loop)
        try:
            closing.result(_CLOSE_SECONDS)
        except Exception as error:  # the job's work is done
            log.warning("connections are not closed: %s", str(error) or type(error).__name__)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self._runtime.result()  # raises what kept it from joining
        # Read each time: the service replaces it while the job runs, long before it ends.
        token = (self._settings.job_dir / TOKEN_FILE).read_text().strip()
        return asyncio.run_coroutine_threadsafe(self._as_job(work, token), self._loop).result()

    async def _as_job(self, work: Coroutine[Any, Any, T], token: str) -> T:
        set_caller(
            Caller(
                kind="job",
                subject=self._job,
                workspace=self._workspace,
                token=token,
            )
        )
        return await work

    async def _open(self) -> MeshRuntime:
        settings = self._settings
        identity = await WorkloadIdentity.open(
            SpiffeId.for_job(
                settings.trust_domain, self._workspace, self._job.removeprefix("jobs/")
            ),
            settings.state_dir / "identity",
            join_address=settings.join_address,
            join_token_file=settings.join_token_file,
        )
        return await MeshRuntime.open("job", settings, identity=identity)

    @property
    def _storage(self) -> Any:
        return storage_pb2_grpc.StorageServiceStub(self._runtime.result().channel("storage"))

    @property
    def _registry(self) -> Any:
        return registry_pb2_grpc.RegistryServiceStub(self._runtime.result().channel("registry"))

    async def _version(self, name: str) -> storage_pb2.DatasetVersion:
        version: storage_pb2.DatasetVersion = await self._again(
            lambda: self._storage.GetDatasetVersion(
                storage_pb2.GetDatasetVersionRequest(name=name), timeout=_CALL_SECONDS
            )
        )
        return version

    async def _download(self, version: str, file: storage_pb2.DataFile, out: BinaryIO) -> None:
        """Writes one file; raises unless it came whole and has its digest."""
        out.seek(0)
        out.truncate()
        digest = hashlib.sha256()
        request = storage_pb2.ReadDatasetFileRequest(name=version, path=file.path)
        # Nothing else runs in this loop that a write could hold up.
        async for chunk in self._storage.ReadDatasetFile(request, timeout=_TRANSFER_SECONDS):
            digest.update(chunk.data)
            out.write(chunk.data)
        if digest.hexdigest() != file.sha256:
            raise DatasetDamaged(
                f"'{file.path}' of {version} arrived with SHA-256 {digest.hexdigest()}, and the "
                f"version says {file.sha256}; push the dataset again",
                file=file.path,
            )

    async def _read_artifact(self, name: str, sha256: str, out: BinaryIO) -> None:
        """Writes an artifact; raises unless it came whole and has its digest."""
        out.seek(0)
        out.truncate()
        digest = hashlib.sha256()
        request = storage_pb2.ReadArtifactRequest(name=name)
        async for chunk in self._storage.ReadArtifact(request, timeout=_TRANSFER_SECONDS):
            digest.update(chunk.data)
            out.write(chunk.data)
        if digest.hexdigest() != sha256:
            raise DatasetDamaged(
                f"'{name}' arrived with SHA-256 {digest.hexdigest()}, and should have {sha256}",
                file=name,
            )

    async def _publish(self, publication: Publication) -> str:
        model = await self._upload(publication.model_file, "application/onnx")
        attachments = {
            name: (await self._upload(path, _media_type(path))).name
            for name, path in publication.attachments.items()
        }
        try:
            await self._again(
                lambda: self._registry.CreateModel(
                    registry_pb2.CreateModelRequest(
                        model_id=publication.model.removeprefix("models/")
                    ),
                    timeout=_CALL_SECONDS,
                )
            )
        except AlreadyExists:
            log.debug("%s exists", publication.model)
        request = registry_pb2.CreateModelVersionRequest(
            parent=publication.model,
            model_version=_version_message(publication, model, attachments),
            request_id=await asyncio.to_thread(_registration_id, self._settings.job_dir),
        )
        version = await self._again(
            lambda: self._registry.CreateModelVersion(request, timeout=_CALL_SECONDS)
        )
        return str(version.name)

    async def _upload(self, path: Path, media_type: str) -> storage_pb2.Artifact:
        with await asyncio.to_thread(path.open, "rb") as file:
            content = await asyncio.to_thread(_Content.whole, file)
            await self._again(lambda: self._send(content))
        artifact: storage_pb2.Artifact = await self._again(
            lambda: self._artifact(content, media_type, path.name)
        )
        return artifact

    async def _store_checkpoint(self, content: _Content) -> str:
        upload = await self._send(content)
        artifact = await self._artifact(content, _CHECKPOINT_MEDIA_TYPE, CHECKPOINT_FILE)
        try:
            # Otherwise the bytes stay for as long as the upload, though the artifact is replaced.
            await self._storage.DeleteUpload(
                storage_pb2.DeleteUploadRequest(name=upload.name), timeout=_CALL_SECONDS
            )
        except LeptonError as error:
            log.warning("%s is not forgotten before its time: %s", upload.name, error)
        return str(artifact.name)

    async def _artifact(
        self, content: _Content, media_type: str, filename: str
    ) -> storage_pb2.Artifact:
        artifact: storage_pb2.Artifact = await self._storage.CreateArtifact(
            storage_pb2.CreateArtifactRequest(
                artifact=storage_pb2.Artifact(
                    sha256=content.sha256,
                    media_type=media_type,
                    filename=filename,
                    source=self._job,
                )
            ),
            timeout=_CALL_SECONDS,
        )
        return artifact

    async def _send(self, content: _Content) -> storage_pb2.Upload:
        """Sends what storage does not have yet: it says where to go on."""
        upload: storage_pb2.Upload = await self._storage.CreateUpload(
            storage_pb2.CreateUploadRequest(
                size_bytes=content.size_bytes,
                sha256=content.sha256,
                request_id=f"{self._job}-{content.sha256}".replace("/", "-")[:128],
            ),
            timeout=_CALL_SECONDS,
        )
        if upload.complete:
            return upload

        async def pieces() -> AsyncIterator[storage_pb2.WriteUploadRequest]:
            for offset in range(upload.committed_bytes, max(content.size_bytes, 1), _CHUNK):
                data = await asyncio.to_thread(content.piece, offset)
                yield storage_pb2.WriteUploadRequest(
                    name=upload.name,
                    chunk=storage_pb2.DataChunk(offset=offset, data=data, crc32=zlib.crc32(data)),
                )

        await self._storage.WriteUpload(pieces(), timeout=_TRANSFER_SECONDS)
        return upload

    async def _again(self, call: Any) -> Any:
        """The call's answer; a failure that may pass is retried: the work of hours waits here.

        A service that is away is waited for; a full disk or a lost race is not, for long.
        """
        began = self._loop.time()
        for attempt in itertools.count():
            try:
                return await call()
            except LeptonError as error:
                away = isinstance(error, Unavailable | DeadlineExceeded)
                patience = _AWAY_SECONDS if away else _REFUSED_SECONDS
                if not error.wire.retryable or self._loop.time() - began > patience:
                    raise
                log.warning("%s; trying again", error.message)
                await asyncio.sleep(min(2.0**attempt, _LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last attempt returns or raises")


def _media_type(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _registration_id(job_dir: Path) -> str:
    """Names this job's one registration: ids of jobs may be used again, directories are not."""
    path = job_dir / "registration-id"
    if not path.exists():
        write_private(path, f"job-{secrets.token_hex(16)}".encode())
    return path.read_text()


def _version_message(
    publication: Publication, model: storage_pb2.Artifact, attachments: dict[str, str]
) -> registry_pb2.ModelVersion:
    return registry_pb2.ModelVersion(
        artifact=model.name,
        sha256=model.sha256,
        signature=registry_pb2.Signature(
            inputs=[_tensor_message(tensor) for tensor in publication.inputs],
            outputs=[_tensor_message(tensor) for tensor in publication.outputs],
        ),
        metrics=publication.metrics,
        evaluation=_struct(publication.evaluation),
        parity=_struct(publication.parity),
        lineage=registry_pb2.Lineage(
            dataset_version=publication.dataset_version,
            dataset_digest=publication.dataset_digest,
            job=publication.job,
            code_version=publication.code_version,
            recipe=publication.recipe,
            hyperparameters=_struct(publication.hyperparameters),
            code_artifact=publication.code_artifact,
            code_digest=f"sha256:{publication.code_sha256}" if publication.code_sha256 else "",
        ),
        class_names=publication.class_names,
        attachments=attachments,
    )


def _tensor_message(tensor: TensorSpec) -> registry_pb2.TensorSpec:
    return registry_pb2.TensorSpec(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tensor.shape,
        description=tensor.description,
    )


def _struct(content: Any) -> Struct:
    struct = Struct()
    struct.update(_lists(content))
    return struct


def _lists(content: Any) -> Any:
    """Tuples as lists: a Struct knows no tuples."""
    if isinstance(content, dict):
        return {key: _lists(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_lists(value) for value in content]
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
