"""A request's way through an ensemble, and what the ensemble says of itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lepton_inference.batch_queue import RequestExpired
from lepton_inference.batcher import InferenceFailed, QueueFull
from lepton_inference.ensemble import Ensemble, EnsembleInvalid, EnsembleStep
from lepton_inference.ensemble_model import EnsembleModel, EnsembleNotReady
from lepton_inference.model import CallerGone, LoadedModel, Model, ModelSource
from lepton_inference.parameters import Generation, ParameterInvalid
from lepton_inference.reports import config, metadata, properties, statistics
from lepton_inference.serving import Served, Serving, ServingState, Workspace
from lepton_inference.settings import BatchingSettings, Link, ModelSettings, SequenceSettings
from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorInvalid, TensorSpec
from lepton_inference.wire import response_of
from tests.unit.inference.test_asgi import HeldSession

ROW = (-1, 2)


def spec(name: str, shape: tuple[int, ...] = ROW, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, DATATYPES[datatype], shape)


class Step:
    """A model of so many inputs and one output ``y``, their sum and ``add``; may be held."""

    def __init__(
        self,
        add: float = 0.0,
        inputs: Sequence[TensorSpec] = (spec("x"),),
        output: TensorSpec | None = None,
        batched: bool = True,
    ) -> None:
        self.signature = Signature(tuple(inputs), (output or spec("y"),), batched)
        self.placement = HeldSession.placement
        self.add = add
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.rows: list[int] = []
        self.fed: list[Any] = []
        self.made: list[Any] = []

    def join(self, columns: Any, rows: int, tails: Any) -> dict[str, Any]:
        feeds = {}
        for one, column, tail in zip(self.signature.inputs, columns, tails, strict=True):
            shape = (rows, *tail) if self.signature.batched else tail
            if one.datatype.itemsize == 0:
                feeds[one.name] = np.concatenate(column).reshape(shape)
            else:
                raw = column[0] if len(column) == 1 else b"".join(column)
                feeds[one.name] = np.frombuffer(raw, one.datatype.dtype).reshape(shape)
        return feeds

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        self.begun.set()
        assert self.go_on.wait(10)
        values = list(feeds.values())
        self.rows.append(len(values[0]))
        self.fed += values
        if values[0].dtype == object:
            self.made.append(np.char.add(values[0].astype(str), "!").astype(object))
        elif (values[0] == -1).any():
            raise RuntimeError("secret detail")
        else:
            self.made.append(sum(values) + np.float32(self.add))
        return [self.made[-1]]

    def close(self) -> None:
        pass


def serve(serving: Serving, name: str, *steps: Step, settings: ModelSettings | None = None) -> None:
    models: list[Model] = [
        LoadedModel(
            ModelSource(name, str(number), "test", f"d{number}"), one, settings or ModelSettings()
        )
        for number, one in enumerate(steps, 1)
    ]
    ready = Served(name, ServingState.READY, models=models, weights=[1] * len(models))
    serving.put("w", ready)


def ensemble(workspace: Workspace, *steps: EnsembleStep, outputs: Sequence[str]) -> EnsembleModel:
    return EnsembleModel("e", Ensemble(steps, tuple(outputs)), workspace)


def two_steps(workspace: Workspace, version: str = "") -> EnsembleModel:
    return ensemble(
        workspace,
        EnsembleStep("second", {"x": "middle"}, {"y": "out"}, version),
        EnsembleStep("first", {"x": "image"}, {"y": "middle"}),
        outputs=["out"],
    )


def diamond(workspace: Workspace) -> EnsembleModel:
    return ensemble(
        workspace,
        EnsembleStep("join", {"a": "left", "b": "right"}, {"y": "out"}),
        EnsembleStep("first", {"x": "image"}, {"y": "left"}),
        EnsembleStep("second", {"x": "image"}, {"y": "right"}),
        outputs=["out", "left"],
    )


def request(value: float = 1.0, rows: int = 1, **fields: Any) -> InferenceRequest:
    raw = np.full((rows, 2), value, np.float32).tobytes()
    return InferenceRequest("e", "", [InputTensor("image", "FP32", (rows, 2), raw)], **fields)


async def answer(model: EnsembleModel, value: float = 1.0, rows: int = 1, **fields: Any) -> Any:
    checked, (batch, first) = await model.infer(request(value, rows, **fields))
    assert first == 0
    return [batch.arrays[index].tolist() for index in checked.outputs]


async def test_a_tensor_goes_from_step_to_step_without_a_copy() -> None:
    """What the second is fed lies where the first has written it."""
    serving, (first, second) = Serving(), (Step(1), Step(10))
    serve(serving, "first", first)
    serve(serving, "second", second)
    model = two_steps(serving.workspace("w"))
    assert await answer(model, 1.0, rows=2) == [[[12, 12], [12, 12]]]
    assert np.shares_memory(first.made[0], second.fed[0])


async def test_steps_share_batches_with_other_requests() -> None:
    """Of other callers of the ensemble, and of their own endpoints."""
    serving, (first, second) = Serving(), (Step(1), Step(10))
    serve(serving, "first", first)
    serve(serving, "second", second)
    workspace = serving.workspace("w")
    model = two_steps(workspace)
    alone = InferenceRequest("first", "", [InputTensor("x", "FP32", (1, 2), bytes(8))])
    *answers, _ = await asyncio.gather(
        *[answer(model, float(value)) for value in range(3)],
        workspace.find("first").pick().infer(alone),
    )
    assert answers == [[[[value + 11.0] * 2]] for value in range(3)]
    assert (first.rows, second.rows) == ([4], [3])
    told = statistics(model)
    assert (told.inference_count, told.inference_stats.success.count) == (3, 3)
    assert told.inference_stats.success.ns > 0


async def test_steps_that_do_not_need_each_other_run_at_a_time() -> None:
    """Both have begun before either may end."""
    serving, (first, second) = Serving(), (Step(1), Step(10))
    serve(serving, "first", first)
    serve(serving, "second", second)
    serve(serving, "join", Step(100, [spec("a"), spec("b")]))
    first.go_on.clear()
    second.go_on.clear()
    model = diamond(serving.workspace("w"))
    asked = asyncio.create_task(answer(model))
    for step in (first, second):
        assert await asyncio.to_thread(step.begun.wait, 10)
    first.go_on.set()
    second.go_on.set()
    assert await asked == [[[113, 113]], [[2, 2]]]
    assert await answer(model, outputs=["left"]) == [[[2, 2]]]


async def test_what_a_caller_needs_to_know_follows_from_the_steps() -> None:
    """Signature, metadata and configuration, as Triton has them for an ensemble."""
    serving = Serving()
    settings = ModelSettings(BatchingSettings(max_rows=8))
    serve(serving, "first", Step(inputs=[spec("x", (-1, -1))]), settings=settings)
    serve(serving, "second", Step())
    serve(serving, "join", Step(inputs=[spec("a"), spec("b")]))
    workspace = serving.workspace("w")
    model = diamond(workspace)
    served = Served("e", ServingState.READY, models=[model], weights=[1])
    told = metadata(served, model)
    assert told.platform == "ensemble"
    assert list(told.versions) == ["1"]
    (taken,) = told.inputs
    # One step takes any length and the other two, so the ensemble takes two.
    assert (taken.name, taken.datatype, list(taken.shape)) == ("image", "FP32", [-1, 2])
    assert [one.name for one in told.outputs] == ["out", "left"]
    configured = config(model)
    assert configured.max_batch_size == 8
    assert not configured.HasField("dynamic_batching")
    assert not configured.instance_group
    assert configured.platform == "ensemble"
    join = configured.ensemble_scheduling.step[0]
    assert (join.model_name, join.model_version) == ("join", -1)
    assert dict(join.input_map) == {"a": "left", "b": "right"}
    assert dict(join.output_map) == {"y": "out"}
    assert properties(model) == {}


async def test_a_step_is_followed_to_what_it_serves_now() -> None:
    """After a swap the next request asks the new model; a step's version may be named."""
    serving = Serving()
    serve(serving, "first", Step(1))
    serve(serving, "second", Step(10), Step(20))
    workspace = serving.workspace("w")
    named = two_steps(workspace, version="2")
    assert await answer(named) == [[[22, 22]]]
    serve(serving, "first", Step(2))
    assert await answer(named) == [[[23, 23]]]
    serve(serving, "first", Step(2, inputs=[spec("x", (-1, 3))], output=spec("y", (-1, -1))))
    assert named.signature.inputs[0].shape == (-1, 3)
    serving.remove("w", "first")
    assert "first" in named.unready()
    served = Served("e", ServingState.READY, models=[named], weights=[1])
    assert served.standing()[0] is ServingState.UNAVAILABLE
    with pytest.raises(EnsembleNotReady, match="step 'first'"):
        await answer(named)
    failed = Served("first", ServingState.UNAVAILABLE, reason="no model", failure="MODEL_INVALID")
    serving.put("w", failed)
    with pytest.raises(EnsembleNotReady, match=r"step 'first'.*MODEL_INVALID"):
        await answer(named)
    serve(serving, "first", Step(1))
    assert named.unready() == ""
    assert served.standing() == (ServingState.READY, "")


async def test_an_ensemble_may_be_a_step() -> None:
    """And what it is made of is told from the outside like a model."""
    serving = Serving()
    serve(serving, "first", Step(1))
    serve(serving, "second", Step(10))
    workspace = serving.workspace("w")
    inner = EnsembleModel("inner", two_steps(workspace).ensemble, workspace)
    serving.put("w", Served("inner", ServingState.READY, models=[inner], weights=[1]))
    outer = ensemble(
        workspace,
        EnsembleStep("inner", {"image": "a"}, {"out": "b"}),
        EnsembleStep("first", {"x": "b"}, {"y": "c"}),
        outputs=["c"],
    )
    tensor = InputTensor("a", "FP32", (1, 2), bytes(8))
    _, (batch, _) = await outer.infer(InferenceRequest("e", "", [tensor]))
    assert batch.arrays[0].tolist() == [[12, 12]]
    # What would be served instead is asked all the way down.
    narrow = Step(inputs=[spec("x", (-1, 3))])
    wrong = LoadedModel(ModelSource("first", "2", "t", ""), narrow, ModelSettings())
    with pytest.raises(EnsembleInvalid, match=r"'c'|'b'|'middle'"):
        outer.check({"first": [wrong]})
    outer.check()
    ring = EnsembleModel("inner", outer.ensemble, workspace)
    serving.put("w", Served("inner", ServingState.READY, models=[ring], weights=[1]))
    with pytest.raises(EnsembleInvalid, match="a step of itself"):
        ring.check()


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (Step(output=spec("y", datatype="INT64")), "'middle' is INT64 and .* is FP32"),
        (Step(output=spec("y", (-1, 3))), r"'middle' has the shape \[-1, 3\] and .*\[-1, 2\]"),
        (Step(output=spec("y", (-1, 2, 1))), "'middle' has the shape"),
        (Step(inputs=[spec("x"), spec("mask")]), "does not feed the model's input 'mask'"),
        (Step(inputs=[spec("z")]), "does not feed the model's input 'z'"),
        (Step(output=spec("z")), "names the output 'y'; the model has z"),
    ],
)
async def test_steps_that_do_not_fit_are_refused(first: Step, why: str) -> None:
    """With the tensor's name and both of its ends."""
    serving = Serving()
    serve(serving, "first", first)
    serve(serving, "second", Step())
    model = two_steps(serving.workspace("w"))
    with pytest.raises(EnsembleInvalid, match=why):
        model.check()
    with pytest.raises(EnsembleInvalid, match="wants the version '9'; the endpoint serves 1"):
        two_steps(serving.workspace("w"), version="9").check()


async def test_a_step_gives_one_answer() -> None:
    """What answers one request many times cannot be a step."""
    serving = Serving()
    feeding = ModelSettings(sequences=SequenceSettings(feed_back=(Link("y", "x"),)))
    serve(serving, "first", Step(), settings=feeding)
    serve(serving, "second", Step())
    with pytest.raises(EnsembleInvalid, match="step 'first' gives several answers"):
        two_steps(serving.workspace("w")).check()


async def test_rows_that_may_not_share_a_batch_make_an_ensemble_without_rows() -> None:
    """One step that does not batch is enough; the others still see rows."""
    serving = Serving()
    serve(serving, "first", Step(1))
    serve(serving, "second", Step(10, batched=False))
    model = two_steps(serving.workspace("w"))
    assert not model.signature.batched
    assert await answer(model, rows=3) == [[[12, 12]] * 3]
    assert config(model).max_batch_size == 0


async def test_text_passes_as_it_is() -> None:
    """And is only written down in the answer."""
    serving = Serving()
    text = [spec("x", (-1, 1), "BYTES")]
    for name in ("first", "second"):
        serve(serving, name, Step(inputs=text, output=spec("y", (-1, 1), "BYTES")))
    model = two_steps(serving.workspace("w"))
    tensor = InputTensor("image", "BYTES", (1, 1), b"\2\0\0\0ab")
    checked, outcome = await model.infer(InferenceRequest("e", "", [tensor]))
    assert outcome[0].arrays[0].tolist() == [["ab!!"]]
    assert b"\4\0\0\0ab!!" in response_of(model, outcome, 1, checked.outputs, "")


async def test_a_failure_names_its_step() -> None:
    """With the step's own kind of error; the ensemble counts it by reason."""
    serving = Serving()
    serve(serving, "first", Step(-2))
    second = Step()
    serve(serving, "second", second, settings=ModelSettings(BatchingSettings(max_queue=1)))
    model = two_steps(serving.workspace("w"))
    with pytest.raises(InferenceFailed, match="step 'second': the model failed"):
        await answer(model, 1.0)
    with pytest.raises(TensorInvalid, match="image"):
        await model.infer(InferenceRequest("e", "", [InputTensor("image", "FP32", (1, 2), b"")]))
    second.go_on.clear()
    asked = [asyncio.create_task(answer(model, 5.0)) for _ in range(4)]
    done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
    error = next(iter(done)).exception()
    assert isinstance(error, QueueFull)
    assert error.message.startswith("step 'second': ")
    assert error.metadata["step"] == "second"
    second.go_on.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert model.statistics.failures["QUEUE_FULL"].count >= 1
    assert model.statistics.failures["INFERENCE_FAILED"].count == 1
    assert model.statistics.failures["TENSOR_INVALID"].count == 1


async def test_deadline_and_priority_reach_every_step() -> None:
    """What is left of the time, and the nearest level that a step has."""
    serving = Serving()
    levels = ModelSettings(BatchingSettings(priority_levels=3, default_priority=2))
    serve(serving, "first", Step())
    serve(serving, "second", Step(), settings=levels)
    model = two_steps(serving.workspace("w"))
    assert await answer(model, priority=3, timeout=60) == [[[1, 1]]]
    with pytest.raises(ParameterInvalid, match="the levels 1 to 3"):
        await answer(model, priority=4)
    with pytest.raises(ParameterInvalid, match=r"step 'first'.*max_steps"):
        await answer(model, generation=Generation(max_steps=2))
    with pytest.raises(RequestExpired, match="step 'first'"):
        await answer(model, timeout=0.0)

    class Slow(Step):
        def run(self, feeds: dict[str, Any]) -> list[Any]:
            time.sleep(0.4)
            return super().run(feeds)

    serve(serving, "first", Slow())
    with pytest.raises(RequestExpired, match="step 'second'"):
        await answer(model, timeout=0.3)


async def test_a_caller_who_goes_takes_what_waits_along() -> None:
    """Through a task that is cancelled, or through a transport that is asked."""
    serving, (first, second) = Serving(), (Step(1), Step(10))
    serve(serving, "first", first)
    serve(serving, "second", second)
    serve(serving, "join", Step(inputs=[spec("a"), spec("b")]))
    first.go_on.clear()
    second.go_on.clear()
    workspace = serving.workspace("w")

    async def gone() -> bool:
        return True

    for model in (two_steps(workspace), diamond(workspace)):
        with pytest.raises(CallerGone):
            await model.infer(request(), gone)
        asked = asyncio.create_task(answer(model))
        await asyncio.to_thread(first.begun.wait, 10)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    first.go_on.set()
    second.go_on.set()
    assert await answer(two_steps(workspace)) == [[[12, 12]]]
    # What was under way in the first step ended there.
    assert sum(second.rows) <= 3
