"""The registry over real TLS, etcd and SQLite: what callers see."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton.api.registry.v1 import registry_pb2_grpc
from lepton_mesh.caller import acting_as_service
from lepton_mesh.errors import LeptonError
from lepton_registry import convert
from tests.service_mesh import bearer

if TYPE_CHECKING:
    from .conftest import Registry

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


def _struct(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


def _version(**fields: Any) -> pb.ModelVersion:
    return pb.ModelVersion(**{"artifact": "artifacts/a1", "sha256": "a" * 64, **fields})


async def _refused(call: Any) -> tuple[str, str]:
    with pytest.raises(LeptonError) as caught:
        await call
    return caught.value.wire.grpc_name, caught.value.reason


async def _model(registry: Registry, model_id: str) -> pb.Model:
    request = pb.CreateModelRequest(model_id=model_id)
    model: pb.Model = await registry.models.CreateModel(
        request, metadata=bearer(registry.tokens["developer"])
    )
    return model


async def test_a_version_with_all_its_papers(registry: Registry) -> None:
    """Comes back as it was registered, by number, by alias and as the latest."""
    developer = bearer(registry.tokens["developer"])
    await _model(registry, "papers")
    given = _version(
        signature=pb.Signature(
            inputs=[pb.TensorSpec(name="image", datatype="FP32", shape=[-1, 1, 28, 28])],
            outputs=[pb.TensorSpec(name="scores", datatype="FP32", shape=[-1, 10])],
        ),
        metrics={"test_accuracy": 0.9912},
        evaluation=_struct(confusion=[[1, 2], [3, 4]]),
        parity=_struct(max_abs_error=1e-6),
        lineage=pb.Lineage(
            dataset_version="datasets/mnist/versions/1",
            dataset_digest="sha256:" + "1" * 64,
            code_version="0.1.0",
            recipe="cnn",
            hyperparameters=_struct(epochs=5, lr=0.001),
        ),
        class_names=["zero", "one"],
        description="first",
        labels={"stage": "test"},
        attachments={"report.json": "artifacts/a2"},
    )
    made = await registry.models.CreateModelVersion(
        pb.CreateModelVersionRequest(parent="models/papers", model_version=given),
        metadata=developer,
    )
    assert (made.name, made.state, made.size_bytes, made.creator) == (
        "models/papers/versions/1",
        pb.ModelVersion.READY,
        1234,
        "users/developer",
    )
    for field in ("signature", "metrics", "evaluation", "parity", "lineage", "class_names"):
        assert getattr(made, field) == getattr(given, field), field
    model = await registry.models.SetAlias(
        pb.SetAliasRequest(model="models/papers", alias="production", version=made.name),
        metadata=developer,
    )
    assert dict(model.aliases) == {"production": made.name}
    assert model.latest_version == made.name
    for name in ("versions/1", "versions/latest", "aliases/production"):
        request = pb.GetModelVersionRequest(name=f"models/papers/{name}")
        found = await registry.models.GetModelVersion(
            request, metadata=bearer(registry.tokens["viewer"])
        )
        assert found == made
    training = await registry.mesh.member("training")
    stub: Any = registry_pb2_grpc.RegistryServiceStub(training.channel("registry"))
    with acting_as_service("default"):
        assert await stub.GetModelVersion(pb.GetModelVersionRequest(name=made.name)) == made


async def test_a_ready_version_does_not_change(registry: Registry) -> None:
    """Description, labels and state do; all else is refused by name."""
    developer = bearer(registry.tokens["developer"])
    await _model(registry, "fixed")
    request = pb.CreateModelVersionRequest(parent="models/fixed", model_version=_version())
    made = await registry.models.CreateModelVersion(request, metadata=developer)
    for field in ("artifact", "sha256", "metrics", "signature", "lineage", "evaluation"):
        update = pb.UpdateModelVersionRequest(
            model_version=made, update_mask=FieldMask(paths=[field])
        )
        call = registry.models.UpdateModelVersion(update, metadata=developer)
        assert await _refused(call) == ("INVALID_ARGUMENT", "INVALID_UPDATE_MASK")
    made.state = pb.ModelVersion.ARCHIVED
    update = pb.UpdateModelVersionRequest(
        model_version=made, update_mask=FieldMask(paths=["state"])
    )
    archived = await registry.models.UpdateModelVersion(update, metadata=developer)
    assert archived.state == pb.ModelVersion.ARCHIVED
    alias = pb.SetAliasRequest(model="models/fixed", alias="production", version=made.name)
    call = registry.models.SetAlias(alias, metadata=developer)
    assert await _refused(call) == ("FAILED_PRECONDITION", "MODEL_VERSION_ARCHIVED")


async def test_storage_has_the_last_word(registry: Registry) -> None:
    """Another digest, no artifact, or one of another workspace: nothing is registered."""
    developer = bearer(registry.tokens["developer"])
    await _model(registry, "checked")
    for version in (
        _version(sha256="c" * 64),
        _version(artifact="artifacts/none"),
        _version(artifact="artifacts/l1"),
    ):
        request = pb.CreateModelVersionRequest(parent="models/checked", model_version=version)
        call = registry.models.CreateModelVersion(request, metadata=developer)
        assert await _refused(call) == ("FAILED_PRECONDITION", "ARTIFACT_MISMATCH")
    listed = await registry.models.ListModelVersions(
        pb.ListModelVersionsRequest(parent="models/checked"), metadata=developer
    )
    assert not listed.model_versions


async def test_a_job_registers_its_own_model(registry: Registry) -> None:
    """With its token; other models are refused, and so are the methods not meant for jobs."""
    job = bearer(registry.tokens["job"])
    await registry.models_of_jobs.CreateModel(
        pb.CreateModelRequest(model_id="trained"), metadata=job
    )
    request = pb.CreateModelVersionRequest(
        parent="models/trained", model_version=_version(), request_id="r1"
    )
    made = await registry.models_of_jobs.CreateModelVersion(request, metadata=job)
    assert (made.lineage.job, made.creator) == ("jobs/j1", "jobs/j1")
    assert await registry.models_of_jobs.CreateModelVersion(request, metadata=job) == made
    other = registry.models_of_jobs.CreateModel(
        pb.CreateModelRequest(model_id="others"), metadata=job
    )
    assert await _refused(other) == ("PERMISSION_DENIED", "RESOURCE_NOT_GRANTED")
    # A file that it may not read it may not register either.
    stranger = _version(artifact="artifacts/a2", sha256="b" * 64)
    attached = _version(attachments={"report": "artifacts/a2"})
    for version in (stranger, attached):
        request = pb.CreateModelVersionRequest(parent="models/trained", model_version=version)
        taken = registry.models_of_jobs.CreateModelVersion(request, metadata=job)
        assert await _refused(taken) == ("PERMISSION_DENIED", "RESOURCE_NOT_GRANTED")
    listed = registry.models_of_jobs.ListModels(pb.ListModelsRequest(), metadata=job)
    assert await _refused(listed) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")


async def test_the_registry_holds_files_until_their_model_is_deleted(registry: Registry) -> None:
    """For itself, in the workspace of whoever calls; then it deletes them, after the answer."""
    await _model(registry, "gone")
    version = _version(artifact="artifacts/a3", sha256="d" * 64)
    await registry.models.CreateModelVersion(
        pb.CreateModelVersionRequest(parent="models/gone", model_version=version),
        metadata=bearer(registry.tokens["developer"]),
    )
    held = ("services/registry", "models/gone", ["artifacts/a3"])
    assert held in registry.storage.holds.values()
    await registry.models.DeleteModel(
        pb.DeleteModelRequest(name="models/gone"), metadata=bearer(registry.tokens["admin"])
    )
    deleted = await asyncio.wait_for(registry.storage.deleted.get(), 10)
    assert deleted == ("services/registry", ["artifacts/a3"])
    assert held not in registry.storage.holds.values()


async def test_large_messages_hold_up_nobody(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions are converted beside the event loop; what no version can be is not even parsed."""
    developer = bearer(registry.tokens["developer"])
    await _model(registry, "large")
    threads = set()
    for function in (convert.version, convert.version_message, convert.versions_page):

        def noting(*arguments: Any, function: Any = function) -> Any:
            threads.add(threading.current_thread())
            return function(*arguments)

        monkeypatch.setattr(convert, function.__name__, noting)
    request = pb.CreateModelVersionRequest(parent="models/large", model_version=_version())
    made = await registry.models.CreateModelVersion(request, metadata=developer)
    await registry.models.GetModelVersion(
        pb.GetModelVersionRequest(name=made.name), metadata=developer
    )
    await registry.models.ListModelVersions(
        pb.ListModelVersionsRequest(parent="models/large"), metadata=developer
    )
    assert threads
    assert threading.current_thread() not in threads
    request.model_version.description = "x" * (9 << 20)
    call = registry.models.CreateModelVersion(request, metadata=developer)
    assert (await _refused(call))[0] == "RESOURCE_EXHAUSTED"


async def test_lists_page(registry: Registry) -> None:
    """Models by name, versions newest first, each page where the last one ended."""
    developer = bearer(registry.tokens["developer"])
    for model_id in ("page-a", "page-b", "page-c"):
        await _model(registry, model_id)
    names, token = [], ""
    while True:
        page = await registry.models.ListModels(
            pb.ListModelsRequest(page_size=2, page_token=token), metadata=developer
        )
        assert len(page.models) <= 2
        names += [model.name for model in page.models]
        if not (token := page.next_page_token):
            break
    assert names == sorted(set(names))
    assert {"models/page-a", "models/page-b", "models/page-c"} <= set(names)
    for _ in range(3):
        request = pb.CreateModelVersionRequest(parent="models/page-a", model_version=_version())
        await registry.models.CreateModelVersion(request, metadata=developer)
    first = await registry.models.ListModelVersions(
        pb.ListModelVersionsRequest(parent="models/page-a", page_size=2), metadata=developer
    )
    assert [one.name[-1] for one in first.model_versions] == ["3", "2"]
    rest = await registry.models.ListModelVersions(
        pb.ListModelVersionsRequest(
            parent="models/page-a", page_size=2, page_token=first.next_page_token
        ),
        metadata=developer,
    )
    assert [one.name[-1] for one in rest.model_versions] == ["1"]
    assert not rest.next_page_token


@pytest.mark.parametrize(
    ("method", "token"),
    [
        ("CreateModel", "viewer"),
        ("UpdateModel", "viewer"),
        ("DeleteModel", "developer"),
        ("CreateModelVersion", "viewer"),
        ("UpdateModelVersion", "viewer"),
        ("SetAlias", "viewer"),
        ("DeleteAlias", "viewer"),
    ],
)
async def test_roles(registry: Registry, method: str, token: str) -> None:
    """Refused before anything is looked at: the request is not even valid."""
    request = getattr(pb, f"{method}Request")()
    call = getattr(registry.models, method)(request, metadata=bearer(registry.tokens[token]))
    assert await _refused(call) == ("PERMISSION_DENIED", "ROLE_TOO_LOW")


def _create(version: pb.ModelVersion, **fields: Any) -> pb.CreateModelVersionRequest:
    return pb.CreateModelVersionRequest(
        **{"parent": "models/bad", "model_version": version, **fields}
    )


def _signature(datatype: str = "FP32", shape: tuple[int, ...] = (1,), n: int = 1) -> pb.Signature:
    tensor = pb.TensorSpec(name="x", datatype=datatype, shape=shape)
    return pb.Signature(inputs=[tensor] * n, outputs=[tensor])


_V = "INVALID_MODEL_VERSION"
BAD_INPUT = [
    ("CreateModel", pb.CreateModelRequest(model_id="Not An Id"), "INVALID_ID"),
    (
        "CreateModel",
        pb.CreateModelRequest(model_id="bad2", model=pb.Model(description="x" * 4001)),
        "INVALID_MODEL",
    ),
    (
        "CreateModel",
        pb.CreateModelRequest(
            model_id="bad2", model=pb.Model(labels={str(n): "" for n in range(65)})
        ),
        "INVALID_MODEL",
    ),
    ("GetModel", pb.GetModelRequest(name="model/bad"), "INVALID_NAME"),
    ("ListModels", pb.ListModelsRequest(page_token="nonsense"), "INVALID_PAGE"),
    ("ListModels", pb.ListModelsRequest(page_size=-1), "INVALID_PAGE"),
    (
        "UpdateModel",
        pb.UpdateModelRequest(model=pb.Model(name="models/bad")),
        "INVALID_UPDATE_MASK",
    ),
    ("DeleteModel", pb.DeleteModelRequest(name=""), "INVALID_NAME"),
    ("CreateModelVersion", _create(_version(), parent="bad"), "INVALID_NAME"),
    ("CreateModelVersion", _create(_version(), request_id="x" * 129), "INVALID_REQUEST_ID"),
    ("CreateModelVersion", _create(_version(), request_id="a\0"), "INVALID_REQUEST_ID"),
    ("CreateModelVersion", _create(_version(artifact="")), _V),
    ("CreateModelVersion", _create(_version(artifact="../a")), _V),
    ("CreateModelVersion", _create(_version(sha256="A" * 64)), _V),
    ("CreateModelVersion", _create(_version(signature=_signature("FLOAT"))), _V),
    ("CreateModelVersion", _create(_version(signature=_signature(shape=(0, 1)))), _V),
    ("CreateModelVersion", _create(_version(signature=_signature(n=2))), _V),
    ("CreateModelVersion", _create(_version(signature=_signature(n=0))), _V),
    ("CreateModelVersion", _create(_version(metrics={"loss": math.nan})), _V),
    ("CreateModelVersion", _create(_version(evaluation=_struct(a=math.inf))), _V),
    ("CreateModelVersion", _create(_version(parity=_struct(a="x" * 300_000))), _V),
    ("CreateModelVersion", _create(_version(class_names=["a", "a"])), _V),
    ("CreateModelVersion", _create(_version(class_names=["a\0"])), _V),
    ("CreateModelVersion", _create(_version(class_names=["a" * (1 << 20)])), _V),
    ("CreateModelVersion", _create(_version(description="\0")), "INVALID_MODEL"),
    ("CreateModelVersion", _create(_version(attachments={"../x": "artifacts/a2"})), _V),
    ("CreateModelVersion", _create(_version(attachments={"x": "a2"})), _V),
    ("CreateModelVersion", _create(_version(lineage=pb.Lineage(job="j"))), _V),
    ("CreateModelVersion", _create(_version(lineage=pb.Lineage(dataset_version="d"))), _V),
    ("CreateModelVersion", _create(_version(lineage=pb.Lineage(dataset_digest="d"))), _V),
    ("GetModelVersion", pb.GetModelVersionRequest(name="models/bad"), "INVALID_NAME"),
    ("GetModelVersion", pb.GetModelVersionRequest(name="models/bad/aliases/"), "INVALID_NAME"),
    ("ListModelVersions", pb.ListModelVersionsRequest(parent="x"), "INVALID_NAME"),
    (
        "UpdateModelVersion",
        pb.UpdateModelVersionRequest(
            model_version=pb.ModelVersion(name="models/bad/versions/1", state=9),
            update_mask=FieldMask(paths=["state"]),
        ),
        _V,
    ),
    (
        "SetAlias",
        pb.SetAliasRequest(model="models/bad", alias="latest", version="models/bad/versions/1"),
        "INVALID_ALIAS",
    ),
    (
        "SetAlias",
        pb.SetAliasRequest(model="models/bad", alias="a", version="models/other/versions/1"),
        "INVALID_ALIAS",
    ),
    ("DeleteAlias", pb.DeleteAliasRequest(model="models/bad", alias="No"), "INVALID_ID"),
]


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    BAD_INPUT,
    ids=[f"{method}-{n}" for n, (method, _, _) in enumerate(BAD_INPUT)],
)
async def test_bad_input(registry: Registry, method: str, request_: Any, reason: str) -> None:
    """Each is INVALID_ARGUMENT with its reason, whatever is stored."""
    call = getattr(registry.models, method)(request_, metadata=bearer(registry.tokens["admin"]))
    assert await _refused(call) == ("INVALID_ARGUMENT", reason)


NOT_THERE = [
    ("GetModel", pb.GetModelRequest(name="models/none"), "MODEL_NOT_FOUND"),
    ("DeleteModel", pb.DeleteModelRequest(name="models/none"), "MODEL_NOT_FOUND"),
    ("ListModelVersions", pb.ListModelVersionsRequest(parent="models/none"), "MODEL_NOT_FOUND"),
    ("CreateModelVersion", _create(_version(), parent="models/none"), "MODEL_NOT_FOUND"),
    (
        "GetModelVersion",
        pb.GetModelVersionRequest(name="models/none/versions/1"),
        "MODEL_NOT_FOUND",
    ),
]


@pytest.mark.parametrize(("method", "request_", "reason"), NOT_THERE)
async def test_what_is_not_there(
    registry: Registry, method: str, request_: Any, reason: str
) -> None:
    """NOT_FOUND, naming it."""
    call = getattr(registry.models, method)(request_, metadata=bearer(registry.tokens["admin"]))
    assert await _refused(call) == ("NOT_FOUND", reason)
