"""A gateway in this process: real gRPC, real TLS, fakes behind it that keep all in memory."""

from __future__ import annotations

import hashlib
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import trustme
from google.protobuf.empty_pb2 import Empty

from lepton.api.auth.v1 import auth_pb2_grpc
from lepton.api.inference.v1 import inference_pb2_grpc
from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton.api.training.v1 import training_pb2, training_pb2_grpc
from lepton.client import Profile
from lepton.oip.v2 import open_inference_pb2_grpc as oip_grpc
from tests.unit.sdk.fake_auth import API_KEY, Auth
from tests.unit.sdk.fake_inference import Inference, OpenInference
from tests.unit.sdk.fake_refusals import not_found, refuse

_ISSUE_TOKEN = "/lepton.api.auth.v1.AuthService/IssueToken"


class Storage(storage_pb2_grpc.StorageServiceServicer):
    """Datasets, two to a page."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, storage_pb2.Upload] = {}
        self.datasets: dict[str, storage_pb2.Dataset] = {}
        self.versions: dict[str, storage_pb2.DatasetVersion] = {}
        self.artifacts: dict[str, bytes] = {}
        self.made: list[storage_pb2.Artifact] = []

    def CreateUpload(self, request: Any, context: Any) -> Any:
        upload = storage_pb2.Upload(
            name=f"uploads/u{len(self.uploads)}",
            size_bytes=request.size_bytes,
            sha256=request.sha256,
            complete=request.sha256 in self.blobs,
        )
        self.uploads[upload.name] = upload
        return upload

    def WriteUpload(self, request_iterator: Any, context: Any) -> Any:
        name, content = "", b""
        for request in request_iterator:
            name = request.name or name
            content += request.chunk.data
        upload = self.uploads[name]
        assert hashlib.sha256(content).hexdigest() == upload.sha256
        self.blobs[upload.sha256] = content
        upload.committed_bytes, upload.complete = len(content), True
        return upload

    def CreateArtifact(self, request: Any, context: Any) -> Any:
        assert request.artifact.sha256 in self.blobs
        artifact = storage_pb2.Artifact(name=f"artifacts/a{len(self.made)}")
        artifact.MergeFrom(request.artifact)
        self.made.append(artifact)
        return artifact

    def CreateDataset(self, request: Any, context: Any) -> Any:
        dataset = storage_pb2.Dataset(name=f"datasets/{request.dataset_id}", etag="0")
        return self.datasets.setdefault(dataset.name, dataset)

    def GetDataset(self, request: Any, context: Any) -> Any:
        if request.name not in self.datasets:
            not_found(context, request.name)
        return self.datasets[request.name]

    def ListDatasets(self, request: Any, context: Any) -> Any:
        names = sorted(self.datasets)
        at = int(request.page_token or 0)
        return storage_pb2.ListDatasetsResponse(
            datasets=[self.datasets[name] for name in names[at : at + 2]],
            next_page_token=str(at + 2) if at + 2 < len(names) else "",
        )

    def DeleteDataset(self, request: Any, context: Any) -> Any:
        if request.etag not in ("", self.GetDataset(request, context).etag):
            refuse(context, grpc.StatusCode.ABORTED, "ETAG_MISMATCH", "it has changed")
        del self.datasets[request.name]
        return Empty()

    def CreateDatasetVersion(self, request: Any, context: Any) -> Any:
        dataset = self.datasets[request.parent]
        version = request.dataset_version
        number = sum(name.startswith(request.parent + "/") for name in self.versions) + 1
        version.name = f"{request.parent}/versions/{number}"
        for file in version.files:
            file.size_bytes = len(self.blobs[file.sha256])
            version.size_bytes += file.size_bytes
        version.statistics["files"] = str(len(version.files))
        self.versions[version.name] = version
        dataset.latest_version, dataset.etag = version.name, str(number)
        return version

    def GetDatasetVersion(self, request: Any, context: Any) -> Any:
        parent, _, number = request.name.partition("/versions/")
        name = request.name
        if number == "latest" and parent in self.datasets:
            name = self.datasets[parent].latest_version
        if name not in self.versions:
            not_found(context, request.name)
        return self.versions[name]

    def ListDatasetVersions(self, request: Any, context: Any) -> Any:
        found = [v for name, v in self.versions.items() if name.startswith(request.parent + "/")]
        return storage_pb2.ListDatasetVersionsResponse(dataset_versions=reversed(found))

    def ReadDatasetFile(self, request: Any, context: Any) -> Iterator[Any]:
        version = self.versions[request.name]
        (digest,) = [file.sha256 for file in version.files if file.path == request.path]
        data = self.blobs[digest][request.offset :]
        yield storage_pb2.DataChunk(offset=request.offset, data=data, crc32=zlib.crc32(data))

    def GetArtifact(self, request: Any, context: Any) -> Any:
        content = self.artifacts[request.name]
        return storage_pb2.Artifact(
            name=request.name,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )

    def ReadArtifact(self, request: Any, context: Any) -> Iterator[Any]:
        data = self.artifacts[request.name][request.offset :]
        yield storage_pb2.DataChunk(offset=request.offset, data=data, crc32=zlib.crc32(data))


class Training(training_pb2_grpc.TrainingServiceServicer):
    """Jobs that end at once. ``breaks`` counts how many streams break after two items."""

    def __init__(self) -> None:
        self.jobs: dict[str, training_pb2.Job] = {}
        self.events: list[training_pb2.JobEvent] = []
        self.lines: list[str] = []
        self.breaks = 0
        self.watched_after: list[int] = []
        self.ends: training_pb2.Job.State.ValueType = training_pb2.Job.SUCCEEDED
        self.quiet = False
        """Whether streams stay open when they have no more to say."""
        self.streaming = threading.Event()
        self.released = threading.Event()

    def add(self, name: str) -> training_pb2.Job:
        job = training_pb2.Job(name=f"jobs/{name}", state=self.ends, progress=1.0)
        if self.ends == training_pb2.Job.FAILED:
            job.failure_reason, job.failure_message = "OUT_OF_MEMORY", "wants less batch"
        self.jobs[job.name] = job
        return job

    def CreateJob(self, request: Any, context: Any) -> Any:
        if request.spec.recipe not in {"cnn", "mlp"} and not request.spec.HasField("code"):
            refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "JOB_SPEC_INVALID",
                f"spec.recipe: no recipe {request.spec.recipe!r}; `lepton job recipes` lists them",
            )
        job = training_pb2.Job(name=f"jobs/{request.job_id or 'j1'}", spec=request.spec)
        if not request.validate_only:
            job = self.add(request.job_id or "j1")
            job.spec.CopyFrom(request.spec)
            self.events = [training_pb2.JobEvent(sequence=1, job=job)]
        return job

    def GetJob(self, request: Any, context: Any) -> Any:
        if request.name not in self.jobs:
            not_found(context, request.name)
        return self.jobs[request.name]

    def ListJobs(self, request: Any, context: Any) -> Any:
        return training_pb2.ListJobsResponse(jobs=self.jobs.values())

    def CancelJob(self, request: Any, context: Any) -> Any:
        job = self.GetJob(training_pb2.GetJobRequest(name=request.name), context)
        if job.state not in (training_pb2.Job.SUCCEEDED, training_pb2.Job.FAILED):
            job.state = training_pb2.Job.CANCELLED
        return job

    def PauseJob(self, request: Any, context: Any) -> Any:
        job = self.GetJob(training_pb2.GetJobRequest(name=request.name), context)
        job.state = training_pb2.Job.PAUSED
        return job

    def ResumeJob(self, request: Any, context: Any) -> Any:
        job = self.GetJob(training_pb2.GetJobRequest(name=request.name), context)
        job.state = training_pb2.Job.QUEUED
        return job

    def DeleteJob(self, request: Any, context: Any) -> Any:
        if self.jobs.pop(request.name, None) is None:
            not_found(context, request.name)
        return Empty()

    def WatchJob(self, request: Any, context: Any) -> Iterator[Any]:
        self.watched_after.append(request.after_sequence)
        events = [event for event in self.events if event.sequence > request.after_sequence]
        return self._stream(events, context)

    def StreamLogs(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream([training_pb2.LogLine(text=line) for line in self.lines], context)

    def _stream(self, all_of_them: Iterable[Any], context: Any) -> Iterator[Any]:
        try:
            for sent, each in enumerate(all_of_them):
                if sent == 2 and self.breaks > 0:
                    self.breaks -= 1
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
                yield each
            if self.quiet and context.add_callback(self.released.set):
                self.streaming.set()
                self.released.wait(30)
        finally:
            self.released.set()

    def ListRecipes(self, request: Any, context: Any) -> Any:
        parameter = training_pb2.Hyperparameter(name="epochs", type="int", default_value="5")
        target = training_pb2.Hyperparameter(name="target", type="string", description="What.")
        recipe = training_pb2.Recipe(
            id="cnn",
            description="small",
            hyperparameters=[parameter],
            data=[target],
            card="Three\n\nconvolutions.",
        )
        return training_pb2.ListRecipesResponse(recipes=[recipe])


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """One model with one version, until it is deleted; and versions that a test adds."""

    def __init__(self) -> None:
        self.models = {
            "models/digits": registry_pb2.Model(
                name="models/digits", latest_version="models/digits/versions/1"
            )
        }
        self.version = registry_pb2.ModelVersion(
            name="models/digits/versions/1",
            state=registry_pb2.ModelVersion.READY,
            size_bytes=2**53 + 1,
            metrics={"test_accuracy": 0.99},
            signature=registry_pb2.Signature(
                inputs=[registry_pb2.TensorSpec(name="image", datatype="UINT8", shape=[-1, 2])]
            ),
        )
        self.added: dict[str, registry_pb2.ModelVersion] = {}

    def ListModels(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListModelsResponse(models=self.models.values())

    def GetModel(self, request: Any, context: Any) -> Any:
        if request.name not in self.models:
            not_found(context, request.name)
        return self.models[request.name]

    def CreateModel(self, request: Any, context: Any) -> Any:
        model = registry_pb2.Model(name=f"models/{request.model_id}")
        return self.models.setdefault(model.name, model)

    def CreateModelVersion(self, request: Any, context: Any) -> Any:
        version = request.model_version
        version.name = f"{request.parent}/versions/{len(self.added) + 1}"
        self.added[version.name] = version
        return version

    def DeleteModel(self, request: Any, context: Any) -> Any:
        if self.models.pop(request.name, None) is None:
            not_found(context, request.name)
        return Empty()

    def ListModelVersions(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListModelVersionsResponse(model_versions=[self.version])

    def GetModelVersion(self, request: Any, context: Any) -> Any:
        if request.name in self.added:
            return self.added[request.name]
        if request.name not in {self.version.name, "models/digits/versions/latest"}:
            not_found(context, request.name)
        return self.version

    def SetAlias(self, request: Any, context: Any) -> Any:
        self.models[request.model].aliases[request.alias] = request.version
        return self.models[request.model]

    def DeleteAlias(self, request: Any, context: Any) -> Any:
        del self.models[request.model].aliases[request.alias]
        return self.models[request.model]


@dataclass(frozen=True)
class Refusal:
    """How a method is refused."""

    code: grpc.StatusCode
    reason: str
    message: str
    facts: dict[str, str] = field(default_factory=dict)


TOKEN_MISSING = Refusal(
    grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", "no access token; use `lepton login`"
)


class _Guard(grpc.ServerInterceptor):
    """Every call but IssueToken needs a token that this gateway issued and that still holds."""

    def __init__(self, auth: Auth, refusals: dict[str, Refusal]) -> None:
        self._auth = auth
        self._refusals = refusals

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        metadata = dict(handler_call_details.invocation_metadata)
        method = handler_call_details.method
        token = metadata.get("authorization", "").removeprefix("Bearer ")
        held = method == _ISSUE_TOKEN or self._auth.valid.get(token, 0.0) > time.time()
        refusal = self._refusals.get(method.rpartition("/")[2]) if held else TOKEN_MISSING
        if refusal is None:
            return continuation(handler_call_details)

        def no(_: Any, context: Any) -> Any:
            refuse(context, refusal.code, refusal.reason, refusal.message, **refusal.facts)

        handler = continuation(handler_call_details)
        if handler is not None and handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(no)
        return grpc.unary_unary_rpc_method_handler(no)


@dataclass
class Gateway:
    """A running fake; its parts are there to be set up and looked at."""

    ca_file: Path
    address: str = ""
    auth: Auth = field(default_factory=Auth)
    storage: Storage = field(default_factory=Storage)
    training: Training = field(default_factory=Training)
    registry: Registry = field(default_factory=Registry)
    inference: Inference = field(default_factory=Inference)
    open_inference: OpenInference = field(init=False)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    """Method name to how it is refused, whatever the servicer would say."""

    def __post_init__(self) -> None:
        self.open_inference = OpenInference(self.inference.load)

    @property
    def profile(self) -> Profile:
        return Profile(address=self.address, ca_file=str(self.ca_file), api_key=API_KEY)


def serve(authority: trustme.CA, ca_file: Path) -> Iterator[Gateway]:
    """A gateway on a free port, until the generator is closed."""
    gateway = Gateway(ca_file)
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    pair = (
        certificate.private_key_pem.bytes(),
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
    )
    server = grpc.server(
        ThreadPoolExecutor(8), interceptors=[_Guard(gateway.auth, gateway.refusals)]
    )
    auth_pb2_grpc.add_AuthServiceServicer_to_server(gateway.auth, server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(gateway.storage, server)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(gateway.training, server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(gateway.registry, server)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(gateway.inference, server)
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(gateway.open_inference, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    gateway.address = f"localhost:{port}"
    server.start()
    try:
        yield gateway
    finally:
        gateway.training.released.set()
        server.stop(0).wait()
