"""Why a version answers a new row as it does: Shapley values, by asking an endpoint that serves it.

Nothing but answers is used, so that what is explained is what is served: the preprocessing, own
code's models and ONNX files of one's own included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton.api.inference.v1 import inference_pb2
from lepton.api.registry.v1 import registry_pb2
from lepton.client import tensors
from lepton.client.errors import EvaluationError, TensorError
from lepton.evaluation.parts import Elements, Parts, Patches, Words
from lepton.evaluation.shapley import shapley_values

if TYPE_CHECKING:
    from lepton.client.endpoints import EndpointClient
    from lepton.client.models import ModelClient

_PARTS_MAX = 1000
_ROWS_AT_ONCE = 64
_BYTES_AT_ONCE = 4 << 20


@dataclass(frozen=True, slots=True)
class ExplainedPart:
    """A piece of the input: a column, a word, a patch of an image."""

    name: str
    value: str
    attribution: float
    """How much of the change from the baseline it makes; all of them add up to it."""
    error: float
    """The standard error of ``attribution``; 0 where it is exact."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one row."""

    version: str
    endpoint: str
    """Which was asked."""
    explained: str
    """The class whose probability is explained, else the output."""
    output: float
    """What the model says of it."""
    baseline: float
    """The same where every part is absent."""
    asked: int
    """Rows that the endpoint was asked about."""
    parts: tuple[ExplainedPart, ...]
    """The largest attribution first."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def explain(
    models: ModelClient,
    endpoints: EndpointClient,
    version: registry_pb2.ModelVersion,
    row: Any,
    *,
    baseline: Any = None,
    target: str = "",
    budget: int = 2000,
    seed: int = 0,
) -> Explanation:
    """Explains what ``version`` says of ``row``; see :meth:`lepton.client.Client.explain`."""
    arrays = _row(version, row)
    parts = _parts(models, version, arrays, baseline)
    endpoint = _serving(endpoints, version)
    number = version.name.rpartition("/")[2]
    at_once = _at_once(endpoint, version, arrays)
    output = _output_of(version)

    def ask(there: tensors.Array) -> tensors.Array:
        """The output FP64 ``[N, ...]``, its dimensions beside the batch made one."""
        answers = []
        for begin in range(0, len(there), at_once):
            rows = parts.inputs(there[begin : begin + at_once])
            answer = endpoints.infer(endpoint.name, rows, version=number)
            if output not in answer:
                raise EvaluationError(
                    f"{endpoint.name} answers without {output}, the output of {version.name}"
                )
            answers.append(answer[output].astype(np.float64))
        whole = np.concatenate(answers)
        return whole.reshape(len(whole), -1)

    whole = np.ones((1, len(parts.names)), bool)
    explained, pick = _explained(version, output, ask(whole), target)
    playing = np.flatnonzero(parts.differ)

    def game(there: tensors.Array) -> tensors.Array:
        every = np.ones((len(there), len(parts.names)), bool)
        every[:, playing] = there
        return pick(ask(every))

    found = shapley_values(game, len(playing), budget=budget, seed=seed)
    attributions, errors = np.zeros(len(parts.names)), np.zeros(len(parts.names))
    attributions[playing], errors[playing] = found.values, found.errors
    each = [
        ExplainedPart(name, value, float(attribution), float(error))
        for name, value, attribution, error in zip(
            parts.names, parts.values, attributions, errors, strict=True
        )
    ]
    return Explanation(
        version=version.name,
        endpoint=endpoint.name,
        explained=explained,
        output=found.output,
        baseline=found.baseline,
        asked=found.asked + len(whole),
        parts=tuple(sorted(each, key=lambda part: -abs(part.attribution))),
    )


def _row(version: registry_pb2.ModelVersion, row: Any, what: str = "") -> dict[str, tensors.Array]:
    """The arrays of a row by input name, without the batch, as the version's signature has them.

    Raises:
        EvaluationError: The version has no signature.
        TensorError: The row does not go with it.
    """
    specs = {spec.name: spec for spec in version.signature.inputs}
    if not specs:
        raise EvaluationError(f"{version.name} does not say what it takes: it has no signature")
    if not isinstance(row, Mapping):
        if len(specs) != 1:
            raise TensorError(f"{what}name the values: {version.name} takes {', '.join(specs)}")
        row = {next(iter(specs)): row}
    unknown, missing = sorted(row.keys() - specs.keys()), sorted(specs.keys() - row.keys())
    if unknown or missing:
        faults = [f"no input {name}" for name in unknown]
        faults += [f"{name} is missing" for name in missing]
        raise TensorError(f"{what}{'; '.join(faults)}; {version.name} takes {', '.join(specs)}")
    return {name: _of_one(row[name], spec, f"{what}{name}") for name, spec in specs.items()}


def _of_one(value: Any, spec: registry_pb2.TensorSpec, what: str) -> tensors.Array:
    array = tensors.from_plain(value, spec.datatype, what)
    wanted = tuple(spec.shape)[1:]
    if array.ndim == len(wanted) + 1 and len(array) == 1:
        array = array[0]  # a batch of one, as `lepton infer` takes it
    if array.size == 1 and all(size in {-1, 1} for size in wanted):
        array = array.reshape((1,) * len(wanted))
    if array.ndim != len(wanted) or any(
        size not in {-1, found} for size, found in zip(wanted, array.shape, strict=True)
    ):
        raise TensorError(f"{what} is {list(array.shape)}, must be {list(wanted)}: one row")
    return array


def _parts(
    models: ModelClient,
    version: registry_pb2.ModelVersion,
    row: Mapping[str, tensors.Array],
    baseline: Any,
) -> Parts:
    """How the row is taken apart: by a baseline where there is one, else by what it is.

    Raises:
        EvaluationError: There is no baseline, and it is neither a text nor an image.
    """
    papers = models.papers(version)
    if baseline is None:
        baseline = papers.get("baseline")
    found: Parts
    if baseline is not None:
        elements = _row(version, baseline, "the baseline: ")
        _check_shapes(row, elements)
        found = Elements(row, elements, _columns(papers) if len(row) == 1 else ())
    else:
        (spec, *others) = version.signature.inputs
        array = row[spec.name]
        if not others and spec.datatype == "BYTES" and array.shape == (1,):
            found = Words(spec.name, _text(array[0]))
        elif not others and spec.datatype == "UINT8" and _is_image(array):
            found = Patches(spec.name, array)
        else:
            raise EvaluationError(
                f"{version.name} keeps no baseline to compare the row with; give one: a row that "
                "stands for nothing in particular, such as the medians of what it was trained on"
            )
    if not len(found.names):
        raise TensorError("there is nothing to explain: the row is empty")
    if found.differ.sum() > _PARTS_MAX:
        raise TensorError(
            f"the row differs from the baseline in {int(found.differ.sum())} places, and at most "
            f"{_PARTS_MAX} can be explained"
        )
    return found


def _columns(papers: Mapping[str, Any]) -> Sequence[str]:
    """Names of the columns of the only input, where there is one, and where papers have them."""
    found = papers.get("columns")
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
        return [str(name) for name in found[0]]
    return ()


def _check_shapes(row: Mapping[str, tensors.Array], baseline: Mapping[str, tensors.Array]) -> None:
    for name, array in row.items():
        if array.shape != baseline[name].shape:
            raise TensorError(
                f"{name} is {list(array.shape)}, and the baseline's is "
                f"{list(baseline[name].shape)}: they must be alike"
            )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_image(array: tensors.Array) -> bool:
    return array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)


def _serving(
    endpoints: EndpointClient, version: registry_pb2.ModelVersion
) -> inference_pb2.Endpoint:
    for endpoint in endpoints.list():
        serves = any(target.resolved_version == version.name for target in endpoint.targets)
        # A model that remembers answers by what came before.
        remembers = endpoint.HasField("sequences")
        if serves and not remembers and endpoint.state == inference_pb2.Endpoint.READY:
            return endpoint
    model, _, number = version.name.removeprefix("models/").partition("/versions/")
    raise EvaluationError(
        f"no endpoint that is READY serves {version.name}, and an explanation asks one; "
        f"`lepton endpoint create {model} --model {model}/{number}` makes one"
    )


def _at_once(
    endpoint: inference_pb2.Endpoint,
    version: registry_pb2.ModelVersion,
    row: Mapping[str, tensors.Array],
) -> int:
    """Rows of one request: what the endpoint takes, and no more bytes than travel well."""
    if any(spec.shape[0] != -1 for spec in version.signature.inputs if spec.shape):
        return 1
    most = min(endpoint.batching.max_batch_rows or _ROWS_AT_ONCE, _ROWS_AT_ONCE)
    size = sum(len(tensors.encode(array)) for array in row.values())
    return max(1, min(most, _BYTES_AT_ONCE // max(1, size)))


def _output_of(version: registry_pb2.ModelVersion) -> str:
    """The first output of numbers that vary smoothly."""
    for spec in version.signature.outputs:
        if spec.datatype.startswith("FP"):
            return str(spec.name)
    raise EvaluationError(
        f"{version.name} has no output of floating-point numbers, which alone can be explained"
    )


def _explained(
    version: registry_pb2.ModelVersion, output: str, answer: tensors.Array, target: str
) -> tuple[str, Callable[[tensors.Array], tensors.Array]]:
    """What is explained, and how it is taken from outputs ``[N, numbers]``.

    Of classes that of ``target``, else the one that is predicted; of other numbers the one at
    ``target``, else their mean.
    """
    names, count = list(version.class_names), answer.shape[1]
    if len(names) == count:
        if target and target not in names:
            raise EvaluationError(
                f"{version.name} has no class '{target}'; it has {', '.join(names)}"
            )
        index = names.index(target) if target else int(answer[0].argmax())
        return names[index], lambda outputs: outputs[:, index]
    if target:
        if not target.isdecimal() or int(target) >= count:
            raise EvaluationError(
                f"{version.name} has no class names: the target is the place of a number in "
                f"{output}, 0 to {count - 1}"
            )
        return f"{output}[{target}]", lambda outputs: outputs[:, int(target)]
    return output if count == 1 else f"mean of {output}", lambda outputs: outputs.mean(axis=1)
