"""Why a version answers a row as it does: asked of an endpoint, whatever the model is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from lepton.api.inference.v1 import inference_pb2
from lepton.api.registry.v1 import registry_pb2
from lepton.client import Client, EvaluationError, TensorError, tensors
from lepton.oip.v2 import open_inference_pb2 as oip
from tests.unit.sdk.fake_gateway import Gateway

Model = Callable[[Mapping[str, Any]], np.ndarray]
PAPERS = {"columns": [["age"], ["work"]], "baseline": {"age": [30.0], "work": ["State"]}}


def version(
    gateway: Gateway,
    inputs: Mapping[str, tuple[str, list[int]]],
    *,
    classes: tuple[str, ...] = (),
    outputs: Mapping[str, str] | None = None,
    papers: dict[str, Any] | None = None,
) -> registry_pb2.ModelVersion:
    """`models/people/versions/3`, of the registry."""
    found = registry_pb2.ModelVersion(name="models/people/versions/3", class_names=classes)
    for name, (datatype, shape) in inputs.items():
        found.signature.inputs.add(name=name, datatype=datatype, shape=shape)
    for name, datatype in (outputs or {"probabilities": "FP32"}).items():
        found.signature.outputs.add(name=name, datatype=datatype, shape=[-1, 2])
    if papers is not None:
        found.attachments["training.json"] = "artifacts/papers"
        gateway.storage.artifacts["artifacts/papers"] = json.dumps(papers).encode()
    gateway.registry.added[found.name] = found
    return found


def serve(gateway: Gateway, model: Model, **endpoint: Any) -> list[int]:
    """An endpoint that answers as ``model`` does; returns how many rows each request has."""
    served = inference_pb2.Endpoint(
        name="endpoints/people", state=inference_pb2.Endpoint.READY, **endpoint
    )
    served.targets.add(resolved_version="models/people/versions/2")
    served.targets.add(resolved_version="models/people/versions/3")
    gateway.inference.endpoints[served.name] = served
    rows: list[int] = []

    def answer(request: Any) -> Any:
        given = {
            one.name: tensors.decode(raw, one.datatype, tuple(one.shape))
            for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        found = model(given).astype(np.float32)
        rows.append(len(found))
        output = oip.ModelInferResponse.InferOutputTensor(
            name="probabilities", datatype="FP32", shape=found.shape
        )
        return oip.ModelInferResponse(outputs=[output], raw_output_contents=[found.tobytes()])

    gateway.open_inference.answer, gateway.open_inference.any_inputs = answer, True
    return rows


def people(given: Mapping[str, Any]) -> np.ndarray:
    """Who is old has it, and more so in private work."""
    second = (0.01 * given["age"] + 0.2 * (given["work"] == b"Private")).astype(float)
    return np.concatenate([1 - second, second], axis=1)


TABLE = {"age": ("FP32", [-1, 1]), "work": ("BYTES", [-1, 1])}


def test_a_row_of_a_table_is_compared_with_the_kept_baseline(
    gateway: Gateway, lepton: Client
) -> None:
    """By the version itself, not another of the endpoint's; exactly where that is possible."""
    found = version(gateway, TABLE, classes=("no", "yes"), papers=PAPERS)
    rows = serve(gateway, people)
    explanation = lepton.explain(found, {"age": 60, "work": "Private"})
    assert gateway.open_inference.versions == {"3"}
    assert explanation.version == "models/people/versions/3"
    assert explanation.endpoint == "endpoints/people"
    assert explanation.explained == "yes"
    assert (explanation.output, explanation.baseline) == pytest.approx((0.8, 0.3))
    parts = {part.name: part for part in explanation.parts}
    assert list(parts) == ["age", "work"]  # the larger first
    assert parts["age"].attribution == pytest.approx(0.3)
    assert parts["work"].attribution == pytest.approx(0.2)
    assert (parts["age"].value, parts["work"].value) == ("60", "Private")
    assert parts["age"].error == 0
    assert sum(rows) == explanation.asked == 1 + 4


def test_another_class_and_another_baseline_can_be_meant(gateway: Gateway, lepton: Client) -> None:
    """A row with the baseline's value owes nothing to it."""
    found = version(gateway, TABLE, classes=("no", "yes"), papers=PAPERS)
    serve(gateway, people)
    row = {"age": np.array([[60.0]], np.float32), "work": [["Private"]]}  # a batch of one
    explanation = lepton.explain(found, row, target="no", baseline={"age": 10, "work": "Private"})
    assert explanation.explained == "no"
    assert [(part.name, part.attribution) for part in explanation.parts] == [
        ("age", pytest.approx(-0.5)),
        ("work", 0),
    ]


def test_a_text_is_explained_by_its_words(gateway: Gateway, lepton: Client) -> None:
    """Which needs no baseline."""
    found = version(gateway, {"text": ("BYTES", [-1, 1])}, classes=("bad", "good"))

    def review(given: Mapping[str, Any]) -> np.ndarray:
        good = np.array([[0.1 + 0.8 * (b"fine" in text)] for text in given["text"][:, 0]])
        return np.concatenate([1 - good, good], axis=1)

    serve(gateway, review)
    explanation = lepton.explain(found, "a fine film")
    assert (explanation.parts[0].name, explanation.parts[0].value) == ("word 2", "fine")
    assert explanation.parts[0].attribution == pytest.approx(0.8)
    with pytest.raises(TensorError, match="the row is empty"):
        lepton.explain(found, "  ")


def test_an_image_is_explained_by_its_patches(gateway: Gateway, lepton: Client) -> None:
    """Without class names the number itself; those that are black already are not asked about."""
    found = version(gateway, {"images": ("UINT8", [-1, -1, -1])})

    def brightness(given: Mapping[str, Any]) -> np.ndarray:
        return given["images"][:, :8, :8].mean(axis=(1, 2))[:, None] / 255.0

    rows = serve(gateway, brightness, batching=inference_pb2.Batching(max_batch_rows=5))
    image = np.zeros((16, 16), np.uint8)
    image[:4, :8], image[12:] = 255, 90
    explanation = lepton.explain(found, image.tolist(), budget=300)
    assert explanation.explained == "probabilities"
    assert explanation.output == pytest.approx(0.5)
    assert [part.attribution for part in explanation.parts[:8]] == pytest.approx([1 / 16] * 8)
    assert max(abs(part.attribution) for part in explanation.parts[8:]) < 1e-6
    assert len(explanation.parts) == 64
    assert max(rows) == 5  # what the endpoint takes at once


def test_a_model_without_class_names_may_be_asked_about_one_number(
    gateway: Gateway, lepton: Client
) -> None:
    """Else about the mean of all, as of the steps of a forecast."""
    found = version(gateway, TABLE, papers=PAPERS)
    serve(gateway, people)
    row = {"age": 60, "work": "Private"}
    assert lepton.explain(found, row, target="1").output == pytest.approx(0.8)
    mean = lepton.explain(found, row)
    assert (mean.explained, mean.output) == ("mean of probabilities", pytest.approx(0.5))
    with pytest.raises(EvaluationError, match="0 to 1"):
        lepton.explain(found, row, target="yes")


def test_a_model_of_one_row_at_a_time_is_asked_so(gateway: Gateway, lepton: Client) -> None:
    """Its signature has no dimension that varies."""
    found = version(gateway, {"x": ("FP32", [1, 3])})
    rows = serve(gateway, lambda given: given["x"].sum(axis=1, keepdims=True))
    explanation = lepton.explain(found, [1, 2, 3], baseline=[0, 0, 0])
    assert {part.name: part.attribution for part in explanation.parts} == pytest.approx(
        {"x[0]": 1, "x[1]": 2, "x[2]": 3}
    )
    assert set(rows) == {1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": 60}, "work is missing; models/people/versions/3 takes age, work"),
        ({"age": 60, "work": "x", "sex": "f"}, "no input sex"),
        ({"age": "old", "work": "x"}, "age does not make a FP32 tensor"),
        ({"age": [1, 2], "work": "x"}, r"age is \[2\], must be \[1\]: one row"),
        ([60, "x"], "name the values"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(
    row: Any, message: str, gateway: Gateway, lepton: Client
) -> None:
    """Before an endpoint is asked."""
    found = version(gateway, TABLE, papers=PAPERS)
    with pytest.raises(TensorError, match=message):
        lepton.explain(found, row)


def test_what_cannot_be_explained_is_said(gateway: Gateway, lepton: Client) -> None:
    """With the remedy."""
    row = {"age": 60, "work": "Private"}
    found = version(gateway, TABLE, classes=("no", "yes"), papers=PAPERS)
    with pytest.raises(EvaluationError, match="endpoint create people --model people/3"):
        lepton.explain(found, row)
    serve(gateway, people)
    with pytest.raises(EvaluationError, match="no class 'maybe'; it has no, yes"):
        lepton.explain(found, row, target="maybe")
    with pytest.raises(TensorError, match="the baseline: work is missing"):
        lepton.explain(found, row, baseline={"age": 1})
    with pytest.raises(EvaluationError, match="keeps no baseline to compare the row with"):
        lepton.explain(version(gateway, TABLE, papers={"baseline": None}), row)
    with pytest.raises(EvaluationError, match="no output of floating-point numbers"):
        lepton.explain(version(gateway, TABLE, outputs={"label": "INT64"}, papers=PAPERS), row)
    with pytest.raises(EvaluationError, match="has no signature"):
        lepton.explain(version(gateway, {}), row)


def test_papers_that_are_not_as_ours_are_told_in_one_line(gateway: Gateway, lepton: Client) -> None:
    """Any job may have written them."""
    row = {"age": 60, "work": "Private"}
    serve(gateway, people)
    found = version(gateway, TABLE, papers=PAPERS | {"columns": 7})
    assert lepton.explain(found, row).output == pytest.approx(0.5)
    for baseline in (7, ["x"], {"age": [1, 2], "work": "x"}):
        with pytest.raises(TensorError, match="the baseline: "):
            lepton.explain(version(gateway, TABLE, papers={"baseline": baseline}), row)
    gateway.storage.artifacts["artifacts/papers"] = b"{"
    with pytest.raises(EvaluationError, match=r"training\.json of .* is damaged"):
        lepton.explain(found, row)


def test_an_endpoint_that_remembers_is_not_asked(gateway: Gateway, lepton: Client) -> None:
    """What came before would have a part in its answers; and one that is not READY has none."""
    found = version(gateway, TABLE, papers=PAPERS)
    serve(gateway, people, sequences=inference_pb2.SequenceBatching())
    with pytest.raises(EvaluationError, match="no endpoint that is READY"):
        lepton.explain(found, {"age": 60, "work": "x"})
    serve(gateway, people)
    gateway.inference.endpoints["endpoints/people"].state = inference_pb2.Endpoint.DEPLOYING
    with pytest.raises(EvaluationError, match="no endpoint that is READY"):
        lepton.explain(found, {"age": 60, "work": "x"})
