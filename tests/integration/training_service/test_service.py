"""A job over the real mesh: real etcd, mutual TLS, storage, registry and the job's own process."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import shutil
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from sklearn.datasets import load_digits

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton.api.training.v1 import training_pb2 as pb
from lepton.api.training.v1 import training_pb2_grpc
from lepton.client.code import pack_code
from lepton_mesh.authorization import check_complete
from lepton_mesh.errors import LeptonError, NotFound
from lepton_registry import bootstrap as registry_bootstrap
from lepton_registry.config import RegistrySettings
from lepton_storage import bootstrap as storage_bootstrap
from lepton_storage.config import StorageSettings
from lepton_training import bootstrap
from lepton_training.config import TrainingSettings
from lepton_training.servicer import TABLE
from tests.service_mesh import ServiceMesh, bearer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

DATASET = "datasets/digits/versions/1"
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "own-code" / "digits_net"


@dataclass
class Stack:
    """Stubs over the mesh, with the first admin's token."""

    training: Any
    storage: Any
    registry: Any
    metadata: Any
    root: Path
    """Of the services' state directories."""

    async def read(self, artifact: str) -> bytes:
        """The bytes of an artifact."""
        request = storage_pb2.ReadArtifactRequest(name=artifact)
        stream = self.storage.ReadArtifact(request, metadata=self.metadata)
        return b"".join([chunk.data async for chunk in stream])

    def largest_object(self) -> int:
        """Bytes of the largest file that storage has."""
        stored = (self.root / "storage" / "objects" / "stored").rglob("*")
        return max(path.stat().st_size for path in stored if path.is_file())

    async def until(self, job: str, condition: Callable[[pb.JobEvent], bool]) -> pb.JobEvent:
        """The first event that fulfils ``condition``."""
        request = pb.WatchJobRequest(name=job)
        async for event in self.training.WatchJob(request, metadata=self.metadata):
            if condition(event):
                found: pb.JobEvent = event
                return found
        raise AssertionError("the job ended before the event came")

    async def push(self, path: str, content: bytes) -> storage_pb2.DataFile:
        """Uploads one file."""
        sha256 = hashlib.sha256(content).hexdigest()
        upload = await self.storage.CreateUpload(
            storage_pb2.CreateUploadRequest(size_bytes=len(content), sha256=sha256),
            metadata=self.metadata,
        )

        async def pieces() -> AsyncIterator[storage_pb2.WriteUploadRequest]:
            chunk = storage_pb2.DataChunk(offset=0, data=content, crc32=zlib.crc32(content))
            yield storage_pb2.WriteUploadRequest(name=upload.name, chunk=chunk)

        await self.storage.WriteUpload(pieces(), metadata=self.metadata)
        return storage_pb2.DataFile(path=path, sha256=sha256)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Auth, storage, registry and training, and scikit-learn's digits as a dataset version."""
    mesh = ServiceMesh(tmp_path_factory.mktemp("mesh"))
    await mesh.start("gateway", "storage", "registry", "training")
    await mesh.serve("storage", StorageSettings, storage_bootstrap.build)
    await mesh.serve("registry", RegistrySettings, registry_bootstrap.build)
    await mesh.serve("training", TrainingSettings, bootstrap.build)
    gateway = await mesh.member("gateway")
    users: Any = auth_pb2_grpc.AuthServiceStub(gateway.channel("auth"))
    password = auth_pb2.IssueTokenRequest.Password(user="admin", password=mesh.admin_password)
    answer = await users.IssueToken(
        auth_pb2.IssueTokenRequest(password=password, workspace="default")
    )
    found = Stack(
        training_pb2_grpc.TrainingServiceStub(gateway.channel("training")),
        storage_pb2_grpc.StorageServiceStub(gateway.channel("storage")),
        registry_pb2_grpc.RegistryServiceStub(gateway.channel("registry")),
        bearer(answer.access_token),
        mesh.root,
    )
    await _push_digits(found)
    yield found
    await mesh.stop()


async def _push_digits(stack: Stack) -> None:
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    contents = {
        "train-images-idx3-ubyte.gz": images[:1400],
        "train-labels-idx1-ubyte.gz": labels[:1400],
        "t10k-images-idx3-ubyte.gz": images[1400:],
        "t10k-labels-idx1-ubyte.gz": labels[1400:],
    }
    files = []
    for path, values in contents.items():
        header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
        files.append(await stack.push(path, gzip.compress(header + values.tobytes(), 1)))
    await stack.storage.CreateDataset(
        storage_pb2.CreateDatasetRequest(dataset_id="digits"), metadata=stack.metadata
    )
    await stack.storage.CreateDatasetVersion(
        storage_pb2.CreateDatasetVersionRequest(
            parent="datasets/digits",
            dataset_version=storage_pb2.DatasetVersion(
                format=storage_pb2.DATASET_FORMAT_IDX, files=files
            ),
        ),
        metadata=stack.metadata,
    )


def spec(**values: Any) -> pb.JobSpec:
    """A spec of the cnn on the digits."""
    defaults = {"recipe": "cnn", "dataset": DATASET, "model": "models/digits"}
    return pb.JobSpec(**(defaults | values))


async def test_a_job_ends_as_a_registered_model(stack: Stack, tmp_path: Path) -> None:
    """Spec to version: signature, metrics, lineage, and an artifact with the digest it says."""
    hyperparameters = Struct()
    hyperparameters.update({"epochs": 2})
    job = await stack.training.CreateJob(
        pb.CreateJobRequest(
            job_id="first",
            spec=spec(
                dataset="datasets/digits/versions/latest",
                hyperparameters=hyperparameters,
                resources=pb.Resources(cpus=1),
            ),
        ),
        metadata=stack.metadata,
    )
    assert (job.state, job.spec.dataset) == (pb.Job.QUEUED, DATASET)
    events = [
        event
        async for event in stack.training.WatchJob(
            pb.WatchJobRequest(name=job.name), metadata=stack.metadata
        )
    ]
    last = events[-1].job
    assert last.state == pb.Job.SUCCEEDED, last.failure_message
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    ends = [event.measurement for event in events if event.measurement.epoch_end]
    assert len(ends) == len(last.epoch_seconds) == 2

    version = await stack.registry.GetModelVersion(
        registry_pb2.GetModelVersionRequest(name=last.model_version), metadata=stack.metadata
    )
    assert version.lineage.job == "jobs/first"
    assert version.lineage.dataset_version == DATASET
    assert version.lineage.dataset_digest.startswith("sha256:")
    assert version.lineage.code_version and version.lineage.recipe == "cnn"
    assert version.metrics["test_accuracy"] == last.metrics["test_accuracy"] > 0.8
    assert list(version.signature.inputs[0].shape) == [-1, 8, 8]
    assert version.parity["agrees"] is True
    assert set(version.attachments) >= {
        "data.json",
        "evaluation.json",
        "parity.json",
        "predictions.npz",
        "roc.png",
        "confusion.png",
        "explanations.png",
        "training.json",
        "weights.pt",
    }
    # A later job may begin with it, by name or alias, and is held to what it was trained on.
    warm = pb.WarmStart(model_version=version.name, retain=pb.Retain(max_drop=0.5))
    checked = await stack.training.CreateJob(
        pb.CreateJobRequest(spec=spec(recipe="cnn", warm_start=warm), validate_only=True),
        metadata=stack.metadata,
    )
    assert checked.spec.warm_start.model_version == version.name
    assert checked.spec.warm_start.retain.dataset == DATASET
    content = await stack.read(version.artifact)
    assert hashlib.sha256(content).hexdigest() == version.sha256


async def test_a_job_outlives_its_directory(stack: Stack) -> None:
    """Paused, it leaves its checkpoint in storage. With its files gone it goes on from that, and
    the service deletes what was stored once it has ended."""
    hyperparameters = Struct()
    hyperparameters.update({"epochs": 30, "hidden": 512})  # more than a piece of an upload
    wanted = spec(
        recipe="mlp",
        model="models/kept",
        hyperparameters=hyperparameters,
        resources=pb.Resources(cpus=1),
    )
    asked = {"name": "jobs/kept"}
    directory = stack.root / "training" / "jobs" / "default" / "kept"
    await stack.training.CreateJob(
        pb.CreateJobRequest(job_id="kept", spec=wanted), metadata=stack.metadata
    )
    await stack.until("jobs/kept", lambda event: event.measurement.epoch_end)
    await stack.training.PauseJob(pb.PauseJobRequest(**asked), metadata=stack.metadata)
    await stack.until("jobs/kept", lambda event: event.job.state == pb.Job.PAUSED)
    paused = await stack.training.GetJob(pb.GetJobRequest(**asked), metadata=stack.metadata)
    get_artifact = storage_pb2.GetArtifactRequest(name=paused.checkpoint.artifact)
    artifact = await stack.storage.GetArtifact(get_artifact, metadata=stack.metadata)
    assert (artifact.source, artifact.sha256) == ("jobs/kept", paused.checkpoint.sha256)
    local = (directory / "checkpoint.pt").read_bytes()
    assert await stack.read(artifact.name) == local
    assert stack.largest_object() >= len(local)

    shutil.rmtree(directory)
    await stack.training.ResumeJob(pb.ResumeJobRequest(**asked), metadata=stack.metadata)
    ended = (await stack.until("jobs/kept", lambda event: event.job.HasField("end_time"))).job
    assert ended.state == pb.Job.SUCCEEDED, ended.failure_message
    assert not ended.HasField("checkpoint")
    log = stack.training.StreamLogs(pb.StreamLogsRequest(**asked), metadata=stack.metadata)
    said = [line.text async for line in log]
    assert "fetched the checkpoint from storage" in said
    assert any(line.startswith("resuming at step ") for line in said)

    async with asyncio.timeout(30):
        while stack.largest_object() >= len(local):
            await asyncio.sleep(0.1)
    with pytest.raises(NotFound):
        await stack.storage.GetArtifact(get_artifact, metadata=stack.metadata)


async def test_a_module_of_ones_own_is_trained(stack: Stack, tmp_path: Path) -> None:
    """The code is read with the job's rights, and the lineage has it."""
    pack_code(EXAMPLE, tmp_path / "code.zip")
    file = await stack.push("code.zip", (tmp_path / "code.zip").read_bytes())
    artifact = await stack.storage.CreateArtifact(
        storage_pb2.CreateArtifactRequest(
            artifact=storage_pb2.Artifact(sha256=file.sha256, media_type="application/zip")
        ),
        metadata=stack.metadata,
    )
    hyperparameters, arguments = Struct(), Struct()
    hyperparameters.update({"epochs": 2, "learning_rate": 0.003})
    arguments.update({"width": 16})
    code = pb.Code(
        artifact=artifact.name,
        module="digits_net.networks:build",
        data_kind="images",
        arguments=arguments,
    )
    job = await stack.training.CreateJob(
        pb.CreateJobRequest(
            job_id="own",
            spec=spec(
                recipe="",
                code=code,
                model="models/own",
                hyperparameters=hyperparameters,
                resources=pb.Resources(cpus=1),
            ),
        ),
        metadata=stack.metadata,
    )
    assert (job.spec.code.sha256, job.spec.code.processes) == (file.sha256, 64)
    events = [
        event
        async for event in stack.training.WatchJob(
            pb.WatchJobRequest(name=job.name), metadata=stack.metadata
        )
    ]
    last = events[-1].job
    assert last.state == pb.Job.SUCCEEDED, last.failure_message
    assert last.metrics["test_accuracy"] > 0.8
    assert len(last.epoch_seconds) == 2
    version = await stack.registry.GetModelVersion(
        registry_pb2.GetModelVersionRequest(name=last.model_version), metadata=stack.metadata
    )
    lineage = version.lineage
    assert (lineage.code_artifact, lineage.recipe) == (artifact.name, "")
    assert lineage.code_digest == f"sha256:{file.sha256}"
    assert lineage.hyperparameters["arguments"]["width"] == 16
    assert lineage.hyperparameters["optimizer"] == "adam"
    assert list(version.signature.inputs[0].shape) == [-1, 8, 8]
    assert version.parity["agrees"] is True


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"recipe": "rnn", "model": "x"}, "JOB_SPEC_INVALID", "2 faults"),
        ({"dataset": "datasets/none/versions/1"}, None, "none"),
    ],
    ids=["faults", "no such dataset"],
)
async def test_a_wrong_spec_is_refused(
    stack: Stack, changes: dict[str, str], reason: str | None, message: str
) -> None:
    """Over the wire as in the domain: all faults, each with its path."""
    with pytest.raises(LeptonError) as caught:
        await stack.training.CreateJob(
            pb.CreateJobRequest(spec=spec(**changes)), metadata=stack.metadata
        )
    assert message in caught.value.message
    assert reason is None or caught.value.reason == reason


async def test_recipes_are_listed(stack: Stack) -> None:
    """What a spec may name, with every hyperparameter."""
    answer = await stack.training.ListRecipes(pb.ListRecipesRequest(), metadata=stack.metadata)
    recipes = {recipe.id: recipe for recipe in answer.recipes}
    assert list(recipes) == sorted(recipes)
    assert {"cnn", "mlp", "tabular", "text_rnn", "series_rnn", "dcgan"} <= recipes.keys()
    assert "epochs" in {one.name for one in recipes["cnn"].hyperparameters}


async def test_every_rpc_has_a_rule() -> None:
    """The authorization table is complete."""
    check_complete(TABLE, [pb.DESCRIPTOR.services_by_name["TrainingService"]])
