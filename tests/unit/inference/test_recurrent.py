"""Models that remember: states that stay inside, and outputs that are fed back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from lepton_inference import reports
from lepton_inference.adapters import onnx_runtime
from lepton_inference.batch_queue import RequestExpired
from lepton_inference.batcher import InferenceFailed
from lepton_inference.implicit_state import StateLayout, StateMalformed
from lepton_inference.metrics import ServingCollector
from lepton_inference.model import LoadedModel, ModelDecoupled, ModelSource
from lepton_inference.parameters import Generation, ParameterInvalid, SequenceId, SequenceStep
from lepton_inference.sequences import SequenceUnknown
from lepton_inference.serving import Served, Serving, ServingState
from lepton_inference.settings import EndpointInvalid, Link, ModelSettings, SequenceSettings
from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorInvalid, TensorSpec
from tests.inference_models import fibonacci, lstm

LSTM = SequenceSettings(states=(Link("h_next", "h"), Link("c_next", "c")))
FIBONACCI = SequenceSettings(
    states=(Link("after", "before"),), feed_back=(Link("y", "x"),), max_steps=20
)

Load = Callable[..., LoadedModel]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(model: bytes, sequences: SequenceSettings, version: str = "1") -> LoadedModel:
        path = tmp_path / "model.onnx"
        path.write_bytes(model)
        settings = ModelSettings(sequences=sequences)
        source = ModelSource("m", version, "onnxruntime_onnx", "")
        return LoadedModel(source, onnx_runtime.examine(path, settings), settings)

    return load


def ask(
    value: np.ndarray[Any, Any],
    id_: SequenceId = 1,
    *,
    start: bool = False,
    end: bool = False,
    **more: Any,
) -> InferenceRequest:
    datatype = {"f": "FP32", "i": "INT64"}[value.dtype.kind]
    return InferenceRequest(
        "m",
        "",
        [InputTensor("x", datatype, value.shape, value.tobytes())],
        sequence=SequenceStep(id_, start, end) if id_ else None,
        owner="users/ada",
        **more,
    )


async def infer(model: LoadedModel, request: InferenceRequest) -> np.ndarray[Any, Any]:
    """The row that is the request's."""
    _, (batch, first) = await model.infer(request)
    row: np.ndarray[Any, Any] = batch.arrays[0][first].copy()
    return row


async def generate(model: LoadedModel, request: InferenceRequest) -> list[int]:
    numbers, finals = [], []
    async for step in model.generate(request):
        batch, first = step.outcome
        numbers.append(int(batch.arrays[0][first, 0]))
        finals.append(step.final)
    assert finals == [False] * (len(numbers) - 1) + [True]
    return numbers


def one(number: int = 1) -> np.ndarray[Any, Any]:
    return np.array([[number]], np.int64)


async def test_kept_sequences_are_counted(load: Load) -> None:
    """For Prometheus."""
    model, serving = load(lstm(), LSTM), Serving()
    serving.put("w", Served("m", ServingState.READY, models=[model], weights=[1]))
    registry = CollectorRegistry()
    registry.register(ServingCollector(serving))
    await infer(model, ask(np.ones((1, 1, 3), np.float32), start=True))
    labels = {"workspace": "w", "endpoint": "m", "version": "1"}
    assert registry.get_sample_value("lepton_inference_sequences", labels) == 1
    await model.close()


async def test_step_by_step_equals_all_at_once(load: Load) -> None:
    """Of 32 sequences whose steps are interleaved and share batches."""
    model = load(lstm(), LSTM)
    inputs = np.random.default_rng(3).standard_normal((32, 6, 3)).astype(np.float32)
    steps = [
        await asyncio.gather(
            *(
                infer(model, ask(inputs[k : k + 1, t : t + 1], f"s{k}", start=t == 0, end=t == 5))
                for k in range(32)
            )
        )
        for t in range(6)
    ]
    assert model.statistics.executions < 32
    assert model.sequences is not None
    assert model.sequences.live == 0
    for k in range(32):
        whole = await infer(model, ask(inputs[k : k + 1], k + 1, start=True, end=True))
        np.testing.assert_allclose(np.concatenate([step[k] for step in steps]), whole, atol=1e-6)
    await model.close()


async def test_states_are_nobodys_to_see(load: Load) -> None:
    """Neither in metadata nor in the outputs; the configuration names them in Triton's terms."""
    model = load(lstm(), LSTM)
    served = Served("m", ServingState.READY, models=[model], weights=[1])
    metadata = reports.metadata(served, model)
    assert [tensor.name for tensor in metadata.inputs] == ["x"]
    assert [tensor.name for tensor in metadata.outputs] == ["y"]
    config = reports.config(model)
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    batching = config.sequence_batching
    assert batching.max_sequence_idle_microseconds == 60_000_000
    assert batching.oldest.max_candidate_sequences == 1024
    assert [(s.input_name, s.output_name, list(s.dims)) for s in batching.state] == [
        ("h", "h_next", [4]),
        ("c", "c_next", [4]),
    ]
    assert batching.state[0].initial_state[0].zero_data
    assert not config.model_transaction_policy.decoupled
    await model.close()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ask(np.ones((1, 1, 3), np.float32), 0), ParameterInvalid),
        (ask(np.ones((1, 1, 3), np.float32)), SequenceUnknown),
        (ask(np.ones((2, 1, 3), np.float32), start=True), TensorInvalid),
        (
            ask(np.ones((1, 1, 3), np.float32), start=True, generation=Generation(5)),
            ParameterInvalid,
        ),
    ],
)
async def test_what_a_stateful_model_cannot_do_is_told(
    load: Load, request_: InferenceRequest, error: type[Exception]
) -> None:
    """No sequence, one that was not begun, several rows, and generating without feeding back."""
    model = load(lstm(), LSTM)
    with pytest.raises(error):
        await model.infer(request_)
    assert sum(each.count for each in model.statistics.failures.values()) == 1
    await model.close()


async def test_what_does_not_end_well_leaves_the_state(load: Load) -> None:
    """A request that expired, and one whose caller went away while it was queued."""
    model = load(lstm(), LSTM)
    steps = np.random.default_rng(5).standard_normal((1, 3, 3)).astype(np.float32)
    whole = await infer(model, ask(steps, "whole", start=True, end=True))
    await infer(model, ask(steps[:, :1], start=True))
    with pytest.raises(RequestExpired):
        await infer(model, ask(steps[:, :1], timeout=-1.0))
    gone = asyncio.ensure_future(infer(model, ask(steps[:, :1])))
    await asyncio.sleep(0)
    gone.cancel()
    await infer(model, ask(steps[:, 1:2]))
    last = await infer(model, ask(steps[:, 2:], end=True))
    np.testing.assert_allclose(last[0], whole[2], atol=1e-6)
    await model.close()


async def test_outputs_are_fed_back(load: Load) -> None:
    """One request, a step for each answer, and the sequence goes on where it stopped."""
    model = load(fibonacci(), FIBONACCI)
    assert await generate(model, ask(one(), start=True, generation=Generation(6))) == [
        1, 2, 3, 5, 8, 13,
    ]  # fmt: skip
    assert await generate(model, ask(one(13), generation=Generation(2))) == [21, 34]
    assert len(await generate(model, ask(one(), start=True, end=True))) == 20
    config = reports.config(model)
    assert config.model_transaction_policy.decoupled
    assert config.parameters["feed_back"].string_value == "y -> x"
    with pytest.raises(ModelDecoupled):
        await model.infer(ask(one(), start=True))
    with pytest.raises(ParameterInvalid, match="20"):
        await generate(model, ask(one(), start=True, generation=Generation(21)))
    await model.close()


@pytest.mark.parametrize(("end_value", "last"), [(8, 8), (8.0, 8), (9, 89)])
async def test_a_value_ends_it(load: Load, end_value: float, last: int) -> None:
    """The step that gives it is the last; without it the steps run out."""
    model = load(fibonacci(), FIBONACCI)
    request = ask(one(), start=True, generation=Generation(10, end_value))
    assert (await generate(model, request))[-1] == last
    await model.close()


async def test_who_stops_listening_stops_it(load: Load) -> None:
    """No further step runs, and the sequence is as it was before the request."""
    model = load(fibonacci(), FIBONACCI)
    assert await generate(model, ask(one(), start=True, generation=Generation(1))) == [1]
    steps = model.generate(ask(one(5)))
    async for _ in steps:
        break
    await steps.aclose()
    ran = model.statistics.executions
    assert await generate(model, ask(one(), generation=Generation(2))) == [2, 3]
    assert model.statistics.executions == ran + 2
    await model.close()


async def test_a_model_may_feed_back_without_a_state(load: Load) -> None:
    """It needs no sequence then."""
    model = load(fibonacci(), SequenceSettings(feed_back=(Link("y", "x"),)))
    request = ask(one(), 0, generation=Generation(3))
    request.inputs.append(InputTensor("before", "INT64", (1, 1), one(2).tobytes()))
    assert await generate(model, request) == [3, 5, 7]
    assert reports.config(model).WhichOneof("scheduling_choice") == "dynamic_batching"
    await model.close()


class Liar:
    """A session whose state has not the shape that it declares."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.signature, self.placement = session.signature, session.placement
        self.join, self.close = session.join, session.close

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        first, *others = self._session.run(feeds)
        return [first[:, :1], *others]


async def test_a_state_of_another_shape_is_not_kept(load: Load) -> None:
    """The request that brought it fails, and spoils no other's batch."""
    honest = load(lstm(), LSTM)
    model = LoadedModel(honest.source, Liar(honest.session), honest.settings)
    with pytest.raises(StateMalformed):
        await model.infer(ask(np.ones((1, 1, 3), np.float32), start=True))
    assert model.sequences is not None
    assert model.sequences.live == 0
    await model.close()


def test_a_failure_of_the_model_is_its_own_kind() -> None:
    """Callers tell a broken export from a broken request."""
    assert StateMalformed.reason != InferenceFailed.reason


def spec(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": (Link("nothing", "h"),)}, "no output 'nothing'"),
        ({"states": (Link("h_next", "nothing"),)}, "no input 'nothing'"),
        ({"states": (Link("wide", "h"),)}, r"FP32 \[-1, 9\]\) cannot be the input 'h'"),
        ({"states": (Link("whole", "h"),)}, "datatype"),
        ({"states": (Link("words", "said"),)}, "not BYTES"),
        ({"states": (Link("y", "x"),)}, "must be fixed"),
        ({"states": (Link("h_next", "h"), Link("words", "said"))}, "not BYTES"),
        ({"feed_back": (Link("y", "x"),)}, "must be fixed"),
    ],
)
def test_links_that_do_not_fit_the_model_are_refused(change: dict[str, Any], message: str) -> None:
    """When it is deployed, naming tensors and shapes."""
    signature = Signature(
        (spec("h", -1, 4), spec("x", -1, -1), spec("said", -1, 1, datatype="BYTES")),
        (
            spec("h_next", -1, 4),
            spec("wide", -1, 9),
            spec("whole", -1, 4, datatype="INT32"),
            spec("y", -1, -1),
            spec("words", -1, 1, datatype="BYTES"),
        ),
        batched=True,
    )
    with pytest.raises(EndpointInvalid, match=message):
        StateLayout(signature, replace(SequenceSettings(), **change))


def test_something_is_left_for_clients() -> None:
    """A model of states alone could neither be asked nor heard."""
    signature = Signature((spec("h", -1, 4),), (spec("h_next", -1, 4), spec("y", -1, 1)), True)
    with pytest.raises(EndpointInvalid, match="without an input"):
        StateLayout(signature, SequenceSettings(states=(Link("h_next", "h"),)))


async def test_a_sequence_goes_on_where_it_was_begun(load: Load) -> None:
    """Also while a model that was replaced drains; a new start goes to the new one."""
    old, new = load(fibonacci(), replace(FIBONACCI, feed_back=(), max_steps=1024)), None
    new = load(fibonacci(), replace(FIBONACCI, feed_back=(), max_steps=1024), "2")
    before = Served("m", ServingState.READY, models=[old], weights=[1])
    for id_ in (1, 2):
        await before.route(ask(one(), id_, start=True)).infer(ask(one(), id_, start=True))
    after = Served("m", ServingState.READY, models=[new], weights=[1], draining=[old])
    assert after.route(ask(one(), 1)) is old
    assert after.route(ask(one(), 3, start=True)) is new
    assert after.route(ask(one(), 9)) is new
    assert after.route(ask(one(), 2, start=True)) is new
    assert not old.holds(("users/ada", 2))
    closing = asyncio.create_task(old.close(60))
    assert await infer(old, ask(one(5), 1, end=True)) == [6]
    await asyncio.wait_for(closing, 10)
    await new.close()


async def test_sequences_of_a_stateless_split_stay_with_their_version(load: Load) -> None:
    """The id is the routing key."""
    models = [load(fibonacci(), FIBONACCI, str(n)) for n in (1, 2)]
    served = Served("m", ServingState.READY, models=models, weights=[1, 1])
    for id_ in range(1, 9):
        picked = {id(served.route(ask(one(), id_))) for _ in range(8)}
        assert len(picked) == 1
    assert len({id(served.route(ask(one(), id_))) for id_ in range(1, 40)}) == 2
