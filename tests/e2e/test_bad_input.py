"""What bad input gets: one table, against a real stack, by every way in.

Each row names what is wrong and what is expected of it. After all of them, nothing
half-written is left behind.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lepton.api.registry.v1 import registry_pb2
from lepton.api.storage.v1 import storage_pb2
from lepton.client import Client, LeptonError, load_profile
from lepton.client.errors import ApiError, from_rpc_error
from tests.e2e.bad_input import (
    FOREIGN,
    UNSIGNED,
    World,
    expired,
    huge,
    list_models,
    negative,
    rename,
    rest_infer,
    truncate,
)
from tests.e2e.conftest import Command

pytestmark = pytest.mark.e2e

CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def world(
    lepton: Command, trained: str, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    scratch = tmp_path_factory.mktemp("bad")
    lepton.ok("endpoint", "create", "bad", "--model", trained)
    with Client(load_profile("local", lepton.config)) as client:
        yield World(lepton, client, digits, scratch)


# --- commands: exit code, and what stderr says ---------------------------------------------


@dataclass
class CommandCase:
    """A command that must fail."""

    name: str
    arguments: Callable[[World], list[str | Path]]
    exit_code: int
    says: str


def _corrupt(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


COMMANDS = [
    CommandCase(
        "a missing file",
        lambda world: ["data", "push", "new", world.scratch / "nothing"],
        2,
        "nothing",
    ),
    CommandCase(
        "an IDX file that is not there",
        lambda world: ["data", "push", "new", world.idx(train_labels=None)],
        2,
        "train-labels-idx1-ubyte.gz",
    ),
    CommandCase(
        "a corrupt gzip",
        lambda world: [
            *("data", "push", "new"),
            world.idx(train_images=_corrupt(world.digits / "train-images-idx3-ubyte.gz")),
        ],
        2,
        "train-images-idx3-ubyte.gz",
    ),
    CommandCase(
        "a wrong magic number",
        lambda world: [
            *("data", "push", "new"),
            world.idx(train_images=gzip.compress(b"\0\0\x0d\x03" + bytes(400))),
        ],
        2,
        "train-images-idx3-ubyte.gz",
    ),
    CommandCase(
        "labels that do not match the images",
        lambda world: [
            *("data", "push", "new"),
            world.idx(
                train_labels=(world.digits / "t10k-labels-idx1-ubyte.gz").read_bytes(),
            ),
        ],
        2,
        "labels",
    ),
    CommandCase(
        "an unknown recipe",
        lambda world: ["job", "create", "-f", world.spec(recipe="transmogrify")],
        2,
        "transmogrify",
    ),
    CommandCase(
        "an unknown hyperparameter",
        lambda world: ["job", "create", "-f", world.spec(hyperparameters={"epoch": 3})],
        2,
        "epoch",
    ),
    CommandCase(
        "a hyperparameter out of range",
        lambda world: ["job", "create", "-f", world.spec(hyperparameters={"epochs": -1})],
        2,
        "epochs",
    ),
    CommandCase(
        "a field that specs do not have",
        lambda world: ["job", "create", "-f", world.spec(recipes="mlp")],
        2,
        "recipes",
    ),
    CommandCase(
        "a dataset that does not exist",
        lambda world: ["job", "create", "-f", world.spec(dataset="datasets/nothing/versions/1")],
        3,
        "nothing",
    ),
    CommandCase(
        "a model that does not exist",
        lambda world: ["endpoint", "create", "new", "--model", "nothing/1"],
        3,
        "nothing",
    ),
    CommandCase(
        "an endpoint that does not exist",
        lambda world: ["infer", "nothing", "-f", world.request()],
        3,
        "nothing",
    ),
    CommandCase(
        "a dataset that does not exist, fetched",
        lambda world: ["data", "get", "nothing", "-d", world.scratch / "out"],
        3,
        "nothing",
    ),
    CommandCase(
        "an id that no resource may have",
        lambda world: ["data", "push", "Not_An_Id", world.digits],
        2,
        "Not_An_Id",
    ),
]


@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case.name)
def test_a_command_says_what_is_wrong(world: World, case: CommandCase) -> None:
    before = _datasets(world)
    done = world.command(*case.arguments(world))
    assert done.returncode == case.exit_code, done.stderr
    assert case.says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    # A dataset that was made for a version which was then refused would be half of something.
    assert _datasets(world) == before


def _datasets(world: World) -> list[str]:
    request = storage_pb2.ListDatasetsRequest()
    return [one.name for one in world.client.storage.ListDatasets(request, timeout=20).datasets]


# --- calls: the same fault over gRPC and REST ----------------------------------------------


@dataclass
class CallCase:
    """A call that must fail, over gRPC and, where it can be put so, over REST."""

    name: str
    rpc: Callable[[World], Any]
    code: grpc.StatusCode
    reason: str
    rest: Callable[[World], tuple[int, dict[str, Any]]] | None = None
    status: int = 0


CALLS = [
    CallCase(
        "an unknown model",
        lambda world: world.infer(model="nothing"),
        CODE.NOT_FOUND,
        "ENDPOINT_NOT_FOUND",
        lambda world: rest_infer(world, model="nothing"),
        404,
    ),
    CallCase(
        "a tensor of the wrong shape",
        lambda world: world.infer(image=np.zeros((1, 9, 8), np.uint8)),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, shape=[1, 9, 8], data=[0] * 72),
        400,
    ),
    CallCase(
        "a tensor of the wrong rank",
        lambda world: world.infer(image=np.zeros((8, 8), np.uint8)),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, shape=[8, 8]),
        400,
    ),
    CallCase(
        "a tensor of the wrong dtype",
        lambda world: world.infer(image=np.zeros((1, 8, 8), np.float32)),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, datatype="FP32"),
        400,
    ),
    CallCase(
        "fewer bytes than the shape says",
        lambda world: world.infer(change=truncate),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, data=[0] * 63),
        400,
    ),
    CallCase(
        "a shape that no memory holds",
        lambda world: world.infer(change=huge),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, shape=[1 << 40, 8, 8]),
        400,
    ),
    CallCase(
        "a negative shape",
        lambda world: world.infer(change=negative),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, shape=[-1, 8, 8]),
        400,
    ),
    CallCase(
        "an input that the model does not have",
        lambda world: world.infer(change=rename),
        CODE.INVALID_ARGUMENT,
        "TENSOR_INVALID",
        lambda world: rest_infer(world, name="pictures"),
        400,
    ),
    CallCase(
        "no token",
        lambda world: world.infer(token=""),
        CODE.UNAUTHENTICATED,
        "TOKEN_MISSING",
        lambda world: rest_infer(world, token=""),
        401,
    ),
    CallCase(
        "a token that has expired",
        lambda world: world.infer(token=expired(world)),
        CODE.UNAUTHENTICATED,
        "TOKEN_EXPIRED",
        lambda world: rest_infer(world, token=expired(world)),
        401,
    ),
    CallCase(
        "a token of another issuer's key",
        lambda world: world.infer(token=FOREIGN),
        CODE.UNAUTHENTICATED,
        "TOKEN_INVALID",
        lambda world: rest_infer(world, token=FOREIGN),
        401,
    ),
    CallCase(
        "a token signed with a shared secret",
        lambda world: world.infer(token=UNSIGNED),
        CODE.UNAUTHENTICATED,
        "TOKEN_INVALID",
        lambda world: rest_infer(world, token=UNSIGNED),
        401,
    ),
    CallCase(
        "an unknown dataset",
        lambda world: world.client.storage.GetDataset(
            storage_pb2.GetDatasetRequest(name="datasets/nothing"), timeout=20
        ),
        CODE.NOT_FOUND,
        "DATASET_NOT_FOUND",
        lambda world: world.http("/v1/datasets/nothing"),
        404,
    ),
    CallCase(
        "a version of an artifact that does not exist",
        lambda world: world.client.registry.CreateModelVersion(
            registry_pb2.CreateModelVersionRequest(
                parent="models/session",
                model_version=registry_pb2.ModelVersion(
                    artifact="artifacts/nothing", sha256="0" * 64
                ),
            ),
            timeout=20,
        ),
        CODE.FAILED_PRECONDITION,
        "ARTIFACT_MISMATCH",
        lambda world: world.http(
            "/v1/models/session/versions", {"artifact": "artifacts/nothing", "sha256": "0" * 64}
        ),
        400,
    ),
    CallCase(
        "a file that does not fit on the disk",
        lambda world: world.client.storage.CreateUpload(
            storage_pb2.CreateUploadRequest(size_bytes=1 << 50, sha256="0" * 64), timeout=20
        ),
        CODE.RESOURCE_EXHAUSTED,
        "DISK_FULL",
        lambda world: world.http("/v1/uploads", {"size_bytes": str(1 << 50), "sha256": "0" * 64}),
        429,
    ),
    # Behind the gateway only the mesh may call. TLS ends before a byte of the call is read,
    # so there is no reason but the status.
    CallCase(
        "a peer without a certificate",
        lambda world: list_models(world, "registry", certificate_of=None),
        CODE.UNAVAILABLE,
        "UNAVAILABLE",
    ),
    CallCase(
        "a service in another's place",
        lambda world: list_models(world, "storage", certificate_of="gateway"),
        CODE.UNAVAILABLE,
        "UNAVAILABLE",
    ),
    CallCase(
        "a peer with another service's certificate",
        lambda world: list_models(world, "registry", certificate_of="storage"),
        CODE.PERMISSION_DENIED,
        "CALLER_NOT_ALLOWED",
    ),
]


@pytest.mark.parametrize("case", CALLS, ids=lambda case: case.name)
def test_a_call_answers_with_status_and_reason(world: World, case: CallCase) -> None:
    with pytest.raises((grpc.RpcError, LeptonError)) as raised:
        case.rpc(world)
    error = raised.value if isinstance(raised.value, ApiError) else from_rpc_error(raised.value)
    assert (error.code, error.reason) == (case.code, case.reason), error.message
    assert "Traceback" not in error.message

    if case.rest is not None:
        status, answer = case.rest(world)
        assert status == case.status, answer
        assert answer.get("error") or answer.get("message")


def test_predictions_go_on_after_all_that(world: World) -> None:
    world.infer()
