"""Data, pages, models, endpoints and predictions, against a gateway."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from lepton.api.inference.v1 import inference_pb2
from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.client import (
    ApiError,
    Client,
    EndpointFailedError,
    InvalidRequestError,
    NotFoundError,
    SequenceStep,
    TensorError,
    TransferError,
    endpoint_fields,
    endpoint_from_mapping,
)
from lepton.client.pages import items
from lepton.oip.v2 import open_inference_pb2 as oip
from tests.inference_models import linear
from tests.unit.sdk.fake_gateway import Gateway, Refusal


def test_every_page_is_walked(gateway: Gateway, lepton: Client) -> None:
    names = [f"datasets/d{number}" for number in range(5)]
    gateway.storage.datasets = {name: pb.Dataset(name=name) for name in names}
    assert [dataset.name for dataset in lepton.data.list()] == names


def test_pages_are_fetched_as_they_are_needed() -> None:
    fetched = []

    def fetch(token: str) -> pb.ListDatasetsResponse:
        fetched.append(token)
        return pb.ListDatasetsResponse(
            datasets=[pb.Dataset(name=f"datasets/d{len(fetched)}")], next_page_token="more"
        )

    walk = items(fetch, lambda page: page.datasets)
    next(walk)
    assert fetched == [""]
    next(walk)
    assert fetched == ["", "more"]


def test_what_was_pushed_is_fetched(gateway: Gateway, lepton: Client, tmp_path: Path) -> None:
    local = {"a.bin": b"a" * 1000, "deep/b.bin": b"b" * 10, "empty": b""}
    files = {}
    for number, (path, content) in enumerate(local.items()):
        files[path] = tmp_path / str(number)
        files[path].write_bytes(content)
    told: list[int] = []
    version = lepton.data.push("mine", files, progress=told.append)
    assert version.name == "datasets/mine/versions/1"
    assert told == sorted(told)
    assert told[-1] == 1010

    told.clear()
    lepton.data.fetch(lepton.data.version("mine"), tmp_path / "copy", progress=told.append)
    assert {path: (tmp_path / "copy" / path).read_bytes() for path in local} == local
    assert told == sorted(told)
    assert told[-1] == 1010


def test_a_push_that_is_refused_sends_nothing(
    gateway: Gateway, lepton: Client, tmp_path: Path
) -> None:
    """The name is asked about before gigabytes go."""
    gateway.refusals["GetDataset"] = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "ID_INVALID", "no such id"
    )
    file = tmp_path / "a"
    file.write_bytes(b"a")
    with pytest.raises(InvalidRequestError):
        lepton.data.push("No Id", {"a": file})
    assert gateway.storage.uploads == {}


def test_a_dataset_that_somebody_made_meanwhile_is_used(
    gateway: Gateway, lepton: Client, tmp_path: Path
) -> None:
    gateway.storage.datasets["datasets/mine"] = pb.Dataset(name="datasets/mine")
    gateway.refusals["GetDataset"] = Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "not yet")
    gateway.refusals["CreateDataset"] = Refusal(
        grpc.StatusCode.ALREADY_EXISTS, "DATASET_EXISTS", "there now"
    )
    file = tmp_path / "a"
    file.write_bytes(b"a")
    assert lepton.data.push("mine", {"a": file}).name == "datasets/mine/versions/1"


@pytest.fixture
def refused_files(gateway: Gateway, tmp_path: Path) -> dict[str, Path]:
    """Files that make no version."""
    gateway.refusals["CreateDatasetVersion"] = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "DATASET_INVALID", "a: not a CSV file"
    )
    file = tmp_path / "a"
    file.write_bytes(b"a")
    return {"a": file}


def test_a_dataset_made_for_files_that_are_refused_is_removed(
    gateway: Gateway, lepton: Client, refused_files: dict[str, Path]
) -> None:
    with pytest.raises(InvalidRequestError, match="not a CSV file"):
        lepton.data.push("mine", refused_files)
    assert gateway.storage.datasets == {}


def test_what_somebody_else_pushed_meanwhile_stays(
    gateway: Gateway,
    lepton: Client,
    refused_files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between making the dataset and the refusal of our version."""
    stub = lepton.data._stub
    ours = stub.CreateDatasetVersion

    def after_theirs(request: pb.CreateDatasetVersionRequest, timeout: float) -> pb.DatasetVersion:
        theirs = pb.CreateDatasetVersionRequest(parent=request.parent)
        gateway.storage.CreateDatasetVersion(theirs, None)
        return ours(request, timeout=timeout)

    monkeypatch.setattr(stub, "CreateDatasetVersion", after_theirs)
    with pytest.raises(InvalidRequestError, match="not a CSV file"):
        lepton.data.push("mine", refused_files)
    assert gateway.storage.datasets["datasets/mine"].latest_version == "datasets/mine/versions/1"


def test_what_is_wrong_with_files_is_told_although_the_dataset_stays(
    gateway: Gateway, lepton: Client, refused_files: dict[str, Path]
) -> None:
    gateway.refusals["DeleteDataset"] = Refusal(
        grpc.StatusCode.UNAVAILABLE, "NO_INSTANCE", "storage is away"
    )
    with pytest.raises(InvalidRequestError, match="not a CSV file"):
        lepton.data.push("mine", refused_files)


def test_a_model_that_somebody_made_meanwhile_is_used(
    gateway: Gateway, lepton: Client, tmp_path: Path
) -> None:
    gateway.refusals["GetModel"] = Refusal(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "not yet")
    gateway.refusals["CreateModel"] = Refusal(
        grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS", "there now"
    )
    file = tmp_path / "linear.onnx"
    file.write_bytes(linear(1.0))
    assert lepton.models.push("mine", file).name == "models/mine/versions/1"


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out"])
def test_a_path_that_leads_out_is_not_followed(path: str, lepton: Client, tmp_path: Path) -> None:
    version = pb.DatasetVersion(name="datasets/d/versions/1", files=[pb.DataFile(path=path)])
    with pytest.raises(TransferError, match="not below"):
        lepton.data.fetch(version, tmp_path / "copy")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(lepton: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    version = pb.DatasetVersion(files=[pb.DataFile(path="a/b")])
    with pytest.raises(TransferError, match="file"):
        lepton.data.fetch(version, tmp_path / "file")


def test_aliases_are_set_and_removed(gateway: Gateway, lepton: Client) -> None:
    changed = lepton.models.set_alias("digits", "production", "digits/1")
    assert dict(changed.aliases) == {"production": "models/digits/versions/1"}
    assert dict(lepton.models.delete_alias("digits", "production").aliases) == {}


def test_an_endpoint_is_waited_for(gateway: Gateway, lepton: Client) -> None:
    created = lepton.endpoints.create("digits", "digits/1")
    assert created.state == inference_pb2.Endpoint.DEPLOYING
    assert lepton.endpoints.wait("digits").state == inference_pb2.Endpoint.READY


def test_an_endpoint_that_fails_says_why(gateway: Gateway, lepton: Client) -> None:
    gateway.inference.ends = inference_pb2.Endpoint.FAILED
    lepton.endpoints.create("digits", "digits/1")
    with pytest.raises(EndpointFailedError, match=r"DIGEST_MISMATCH.*push it again"):
        lepton.endpoints.wait("digits")


def test_an_endpoint_is_not_waited_for_without_end(gateway: Gateway, lepton: Client) -> None:
    gateway.inference.ends = inference_pb2.Endpoint.DEPLOYING
    lepton.endpoints.create("digits", "digits/1")
    with pytest.raises(EndpointFailedError, match="not READY after 0 s: fetching models"):
        lepton.endpoints.wait("digits", timeout=0)


def test_an_endpoint_is_unloaded_and_loaded(gateway: Gateway, lepton: Client) -> None:
    """Nobody waits for one that is unloaded; loading gives it back READY."""
    lepton.endpoints.create("digits", "digits/1")
    assert lepton.endpoints.unload("endpoints/digits").state == inference_pb2.Endpoint.UNLOADED
    with pytest.raises(EndpointFailedError, match="is unloaded"):
        lepton.endpoints.wait("digits")
    assert lepton.endpoints.load("endpoints/digits").state == inference_pb2.Endpoint.READY
    with pytest.raises(NotFoundError):
        lepton.endpoints.load("gone")


def test_an_update_changes_what_is_given(gateway: Gateway, lepton: Client) -> None:
    lepton.endpoints.create("digits", "digits/1", batching=inference_pb2.Batching(max_batch_rows=8))
    changed = lepton.endpoints.update("digits", model_version="digits/2")
    assert changed.targets[0].model_version == "models/digits/versions/2"
    assert changed.batching.max_batch_rows == 8
    changed = lepton.endpoints.update("digits", batching=inference_pb2.Batching(max_queue=1))
    assert len(changed.targets) == 1
    assert changed.batching == inference_pb2.Batching(max_queue=1)


def test_an_update_takes_back_what_is_named(gateway: Gateway, lepton: Client) -> None:
    """A default says nothing by itself; a file that writes it down does."""
    asked = {"targets": [{"model_version": "models/digits/versions/1"}], "responseCacheBytes": 4096}
    lepton.endpoints.create("digits", wanted=endpoint_from_mapping(asked))
    off = {"response_cache_bytes": 0}
    wanted, fields = endpoint_from_mapping(off), endpoint_fields(off)
    changed = lepton.endpoints.update("digits", wanted=wanted, fields=fields)
    assert (changed.response_cache_bytes, len(changed.targets)) == (0, 1)


def test_predictions(gateway: Gateway, lepton: Client) -> None:
    scores = lepton.endpoints.infer("digits", {"image": np.array([[1, 2]], np.uint8)})
    np.testing.assert_array_equal(scores["scores"], [[2, 4]])
    with pytest.raises(InvalidRequestError, match="must be UINT8"):
        lepton.endpoints.infer("digits", {"image": np.zeros((1, 3), np.uint8)})
    with pytest.raises(NotFoundError):
        lepton.endpoints.metadata("gone")


@pytest.mark.parametrize(("id_", "key"), [(7, "7"), ("call-7", "'call-7'"), ("数", r"'\u6570'")])
def test_a_sequence_is_named(gateway: Gateway, lepton: Client, id_: int | str, key: str) -> None:
    """In the parameters, and for the gateway, which sends all of one to one instance."""
    image = {"image": np.array([[1, 2]], np.uint8)}
    lepton.endpoints.infer("digits", image, sequence=SequenceStep(id_, start=True))
    seen = gateway.open_inference
    assert seen.parameters == {"sequence_id": id_, "sequence_start": True, "sequence_end": False}
    assert seen.routing_key == key
    lepton.endpoints.infer("digits", image)
    assert (seen.parameters, seen.routing_key) == ({}, "")


def test_generation(gateway: Gateway, lepton: Client) -> None:
    """An answer a step, until the last one, or until the caller has enough."""
    image = {"image": np.array([[1, 2]], np.uint8)}
    steps = lepton.endpoints.generate("digits", image, max_steps=2, end_value=9.5)
    assert [step["scores"].tolist() for step in steps] == [[[2, 4]], [[4, 8]]]
    assert gateway.open_inference.parameters == {"max_steps": 2, "end_value": 9.5}
    steps = lepton.endpoints.generate("digits", image, sequence=SequenceStep(1, end=True))
    next(steps)
    steps.close()
    assert gateway.open_inference.parameters["sequence_end"] is True
    with pytest.raises(ApiError, match="allows 3 steps"):
        list(lepton.endpoints.generate("digits", image, max_steps=4))


def test_an_answer_that_lies_is_refused(gateway: Gateway, lepton: Client) -> None:
    output = oip.ModelInferResponse.InferOutputTensor(name="s", datatype="FP32", shape=[9])
    gateway.open_inference.answer = lambda _: oip.ModelInferResponse(
        outputs=[output], raw_output_contents=[b"1234"]
    )
    with pytest.raises(TensorError, match="4 bytes do not make a FP32 tensor"):
        lepton.endpoints.infer("digits", {"image": np.zeros((1, 2), np.uint8)})


def test_deleting_what_is_not_there(lepton: Client) -> None:
    for delete in (lepton.data.delete, lepton.models.delete, lepton.endpoints.delete):
        with pytest.raises(ApiError, match="gone does not exist"):
            delete("gone")
