"""Requests with tensors in shared memory, without a server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.bootstrap import build_shared_tensors
from lepton_inference.budget import BodiesTooMany
from lepton_inference.config import InferenceSettings
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import MethodUnimplemented, OpenInference
from lepton_inference.parameters import (
    ParameterInvalid,
    ParameterUnsupported,
    SharedPart,
    shared_part_of,
)
from lepton_inference.rest import PathUnknown, Rest
from lepton_inference.rest_codec import BodyInvalid
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_inference.shared_memory import Kind, RegionNotFound, SharedMemoryRange
from lepton_inference.shared_tensors import SharedTensors
from lepton_inference.tensors import TensorInvalid
from lepton_mesh.errors import LeptonError
from tests.unit.inference.test_asgi import HeldSession, OpenGate
from tests.unit.inference.test_shared_memory import Machine

VALUES = np.array([[1, 2], [3, 4]], np.float32)
REGISTER = "/v2/systemsharedmemory/region/x/register"


class World:
    """A model that is held, and a caller with the regions ``in`` and ``out``."""

    def __init__(self, directory: Path, max_bytes: int = 1 << 20) -> None:
        self.machine = Machine(directory)
        self.session, serving = HeldSession(), Serving()
        self.model = LoadedModel(ModelSource("m", "1", "test", ""), self.session, ModelSettings())
        serving.put("w", Served("m", ServingState.READY, models=[self.model], weights=[1]))
        self.gate = OpenGate(serving)
        self.admitted: Admitted = self.gate._admitted
        self.tensors = SharedTensors(self.machine.memory, max_bytes)
        self.protocol = OpenInference(serving, shared=self.tensors)
        for name in ("in", "out"):
            self.machine.register(self.admitted, name)
        self.write(VALUES)

    def write(self, values: Any) -> None:
        (self.machine.directory / "in").write_bytes(values.tobytes().ljust(4096, b"\0"))

    def output(self) -> list[list[float]]:
        raw = (self.machine.directory / "out").read_bytes()[:16]
        found: list[list[float]] = np.frombuffer(raw, np.float32).reshape(2, 2).tolist()
        return found

    def infer(self, request: pb.ModelInferRequest) -> asyncio.Task[bytes]:
        return asyncio.create_task(self.protocol.infer(self.admitted, request.SerializeToString()))

    async def begun(self) -> None:
        await asyncio.to_thread(self.session.begun.wait, 10)

    async def close(self) -> None:
        self.session.go_on.set()
        await self.model.close()
        self.machine.memory.close()


def parameters(region: str, size: int = 16, offset: int = 0) -> dict[str, pb.InferParameter]:
    return {
        "shared_memory_region": pb.InferParameter(string_param=region),
        "shared_memory_byte_size": pb.InferParameter(int64_param=size),
        "shared_memory_offset": pb.InferParameter(int64_param=offset),
    }


def request(
    into: str = "out", size: int = 16, rows: int = 2, source: str = "in"
) -> pb.ModelInferRequest:
    """Doubles two rows of ``source`` into ``into``."""
    asked = pb.ModelInferRequest
    return asked(
        model_name="m",
        inputs=[
            asked.InferInputTensor(
                name="x", datatype="FP32", shape=[rows, 2], parameters=parameters(source)
            )
        ],
        outputs=[asked.InferRequestedOutputTensor(name="y", parameters=parameters(into, size))],
    )


async def test_a_request_goes_from_region_to_region(tmp_path: Path) -> None:
    """What is written while it runs changes nothing of it."""
    world = World(tmp_path)
    running = world.infer(request())
    await world.begun()
    world.write(VALUES * 100)
    world.session.go_on.set()
    response = pb.ModelInferResponse.FromString(await running)
    assert world.output() == (VALUES * 2).tolist()
    assert list(response.raw_output_contents) == [b""]
    assert response.outputs[0].parameters["shared_memory_byte_size"].int64_param == 16
    assert world.tensors._budget.held == 0
    await world.close()


async def test_a_region_may_go_while_a_request_runs(tmp_path: Path) -> None:
    """The input was read; the output is refused, and the memory is not touched any more."""
    world = World(tmp_path)
    running = world.infer(request())
    await world.begun()
    world.machine.memory.unregister(world.admitted, Kind.SYSTEM)
    world.session.go_on.set()
    with pytest.raises(RegionNotFound):
        await running
    assert world.output() == [[0, 0], [0, 0]]
    assert world.session.rows == [2]
    await world.close()


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (request(into="nowhere"), RegionNotFound),
        (request(source="nowhere"), RegionNotFound),
        (request(size=5000), SharedMemoryRange),
        (request(rows=3), TensorInvalid),
        (request(rows=1 << 60), TensorInvalid),
    ],
)
async def test_what_cannot_be_costs_no_compute(
    tmp_path: Path, asked: pb.ModelInferRequest, error: type[LeptonError]
) -> None:
    """It is refused before anything is run."""
    world = World(tmp_path)
    world.session.go_on.set()
    with pytest.raises(error):
        await world.infer(asked)
    assert (world.session.rows, world.tensors._budget.held) == ([], 0)
    await world.close()


async def test_an_output_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    """Not even in part; the sizes are named."""
    world = World(tmp_path)
    world.session.go_on.set()
    with pytest.raises(SharedMemoryRange, match=r"has 16 bytes; .* has 12"):
        await world.infer(request(size=12))
    assert world.output() == [[0, 0], [0, 0]]
    await world.close()


async def test_copies_are_bounded(tmp_path: Path) -> None:
    """A small message may not make the server hold much; what is held is given back."""
    world = World(tmp_path, max_bytes=16)
    running = world.infer(request())
    await world.begun()
    with pytest.raises(BodiesTooMany):
        await world.infer(request())
    world.session.go_on.set()
    await running
    await world.infer(request())
    world.tensors._limit = 8
    with pytest.raises(SharedMemoryRange, match="8 at most"):
        await world.infer(request())
    await world.close()


async def test_text_counts_for_what_it_takes(tmp_path: Path) -> None:
    """Its elements become objects, which are larger than they are in memory that is shared."""
    world = World(tmp_path, max_bytes=1024)
    asked = request()
    asked.inputs[0].datatype = "BYTES"
    with pytest.raises(TensorInvalid):  # of another datatype than the model's
        await world.infer(asked)
    asked.inputs[0].shape[0] = 500
    asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = 1000
    with pytest.raises(BodiesTooMany):
        await world.infer(asked)
    await world.close()


async def test_ranked_outputs_go_there_as_text(tmp_path: Path) -> None:
    """With as many bytes as the text takes."""
    world = World(tmp_path)
    world.session.go_on.set()
    asked = request(size=64)
    asked.outputs[0].parameters["classification"].int64_param = 1
    response = pb.ModelInferResponse.FromString(await world.infer(asked))
    text = [b"4.000000:1", b"8.000000:1"]
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in text)
    assert (world.machine.directory / "out").read_bytes().startswith(raw + b"\0")
    output = response.outputs[0]
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 1])
    assert output.parameters["shared_memory_byte_size"].int64_param == len(raw)
    await world.close()


async def test_large_tensors_are_copied_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another thread, with the same outcome."""
    monkeypatch.setattr("lepton_inference.shared_tensors._INLINE_BYTES", 0)
    world = World(tmp_path)
    world.session.go_on.set()
    await world.infer(request())
    assert world.output() == (VALUES * 2).tolist()
    await world.close()


async def test_a_request_that_was_remembered_still_writes_where_it_says(tmp_path: Path) -> None:
    """The short way is not for outputs in shared memory."""
    world = World(tmp_path)
    world.session.go_on.set()
    asked = request()
    asked.inputs[0].ClearField("parameters")
    for factor in (1, 2, 3):
        del asked.raw_input_contents[:]
        asked.raw_input_contents.append((VALUES * factor).tobytes())
        message = asked.SerializeToString()
        framed = b"\0" + len(message).to_bytes(4, "big") + message
        assert world.admitted.workspace.plans.find(framed) is None
        await world.protocol.infer_framed(world.admitted, framed)
        assert world.output() == (VALUES * factor * 2).tolist()
    await world.close()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"shared_memory_region": "x"}, ParameterInvalid),
        ({"shared_memory_byte_size": 8}, ParameterInvalid),
        ({"shared_memory_offset": 8}, ParameterInvalid),
        ({"shared_memory_region": "", "shared_memory_byte_size": 8}, ParameterInvalid),
        ({"shared_memory_region": 7, "shared_memory_byte_size": 8}, ParameterInvalid),
        ({"shared_memory_region": "x", "shared_memory_byte_size": -8}, ParameterInvalid),
        ({"shared_memory_region": "x", "shared_memory_byte_size": "all"}, ParameterInvalid),
        (
            {
                "shared_memory_region": "x",
                "shared_memory_byte_size": 8,
                "shared_memory_offset": True,
            },
            ParameterInvalid,
        ),
    ],
)
def test_a_place_in_shared_memory_is_told_in_full(
    given: dict[str, object], error: type[LeptonError]
) -> None:
    """Or it is refused."""
    with pytest.raises(error):
        shared_part_of(given)


def test_a_place_in_shared_memory_is_understood() -> None:
    """The offset may be left out; other parameters are none of its business."""
    given = {"shared_memory_region": "x", "shared_memory_byte_size": 8, "binary_data": False}
    assert shared_part_of(given) == SharedPart("x", 0, 8)
    assert shared_part_of({"binary_data": False}) is None


async def test_an_input_is_in_one_place(tmp_path: Path) -> None:
    """In shared memory or in the message; and the parameters are the tensor's."""
    world = World(tmp_path)
    both = request()
    both.raw_input_contents.append(VALUES.tobytes())
    with pytest.raises(TensorInvalid, match="1 raw_input_contents for 0 inputs"):
        await world.infer(both)
    both = request()
    both.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    with pytest.raises(TensorInvalid, match="send one of them"):
        await world.infer(both)
    whole = request()
    whole.parameters["shared_memory_region"].string_param = "in"
    with pytest.raises(ParameterInvalid, match="of an input or of a requested output"):
        await world.infer(whole)
    await world.close()


async def test_where_it_is_turned_off_it_is_refused(tmp_path: Path) -> None:
    """And not listed."""
    world = World(tmp_path)
    world.protocol = OpenInference(world.protocol.serving)
    with pytest.raises(ParameterUnsupported, match="by this server"):
        await world.infer(request())
    with pytest.raises(MethodUnimplemented):
        await world.protocol.call("SystemSharedMemoryStatus", world.admitted, b"")
    assert not any("shared_memory" in name for name in world.protocol.extensions)
    await world.close()


@pytest.mark.parametrize(
    ("verb", "path", "body", "error"),
    [
        ("POST", REGISTER, b"", BodyInvalid),
        ("POST", REGISTER, b'{"byte_size": 8}', BodyInvalid),
        ("POST", REGISTER, b'{"key": 7, "byte_size": 8}', BodyInvalid),
        ("POST", REGISTER, b'{"key": "\\ud800", "byte_size": 8}', BodyInvalid),
        ("POST", REGISTER, b'{"key": "in", "byte_size": -1}', BodyInvalid),
        ("POST", REGISTER, b'{"key": "in", "byte_size": true}', BodyInvalid),
        ("POST", REGISTER, b'{"key": "in", "byte_size": 18446744073709551616}', BodyInvalid),
        ("POST", REGISTER, b'{"key": "in", "byte_size": 8, "offset": "0"}', BodyInvalid),
        (
            "POST",
            "/v2/cudasharedmemory/region/x/register",
            b'{"raw_handle": {"b64": "?"}, "byte_size": 8}',
            BodyInvalid,
        ),
        (
            "POST",
            "/v2/cudasharedmemory/region/x/register",
            b'{"device_id": 2147483648, "byte_size": 8}',
            BodyInvalid,
        ),
        ("GET", "/v2/systemsharedmemory", b"", PathUnknown),
        ("GET", "/v2/systemsharedmemory/region/x", b"", PathUnknown),
        ("POST", "/v2/systemsharedmemory/register", b"{}", PathUnknown),
        ("GET", "/v2/systemsharedmemory/region/nowhere/status", b"", RegionNotFound),
    ],
)
async def test_rest_refuses_what_is_wrong(
    tmp_path: Path, verb: str, path: str, body: bytes, error: type[LeptonError]
) -> None:
    """With the reason; nothing is registered."""
    world = World(tmp_path)
    rest = Rest(world.protocol, world.gate, 1 << 20)
    with pytest.raises(error):
        await rest.answer(verb, path, {}, body)
    assert world.machine.names(world.admitted) == ["in", "out"]
    await world.close()


async def test_rest_registers_lists_and_forgets(tmp_path: Path) -> None:
    """As Triton's client has it."""
    world = World(tmp_path)
    rest = Rest(world.protocol, world.gate, 1 << 20)

    async def ask(verb: str, path: str, body: Any = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        status, _, answer = await rest.answer(verb, path, {}, content)
        assert status == 200, answer
        return json.loads(answer)

    await ask("POST", REGISTER, {"key": "/in", "offset": 8, "byte_size": 16})
    assert await ask("GET", "/v2/systemsharedmemory/region/x/status") == [
        {"name": "x", "key": "/in", "offset": 8, "byte_size": 16}
    ]
    assert len(await ask("GET", "/v2/systemsharedmemory/status")) == 3
    assert await ask("GET", "/v2/cudasharedmemory/status") == []
    await ask("POST", "/v2/systemsharedmemory/region/x/unregister")
    await ask("POST", "/v2/cudasharedmemory/unregister")
    assert world.machine.names(world.admitted) == ["in", "out"]
    assert (await rest.answer("GET", REGISTER, {}, b""))[0] == 405
    await ask("POST", "/v2/systemsharedmemory/unregister")
    assert world.machine.names(world.admitted) == []
    await world.close()


@pytest.mark.parametrize("regions", [0, 3])
def test_the_settings_bound_it_or_turn_it_off(tmp_path: Path, regions: int) -> None:
    """No regions, no shared memory."""
    settings = InferenceSettings(
        state_dir=tmp_path, shared_memory_regions=regions, max_bytes_in_flight=2 << 20
    )
    shared = build_shared_tensors(settings, revoked=lambda _: False)
    if regions == 0:
        assert shared is None
    else:
        assert shared is not None
        assert (shared._limit, shared.memory._bounds.regions) == (2 << 20, 3)
