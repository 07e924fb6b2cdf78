"""What a model takes and gives, and the check of a request against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lepton_inference.parameters import (
    Generation,
    ParameterInvalid,
    ParameterUnsupported,
    SequenceStep,
    SharedPart,
)
from lepton_inference.tensors import Column, TensorInvalid, TensorSpec, check_raw
from lepton_mesh.errors import InvalidArgument
from lepton_mesh.texts import counted

if TYPE_CHECKING:
    from lepton_inference.sequences import SequenceUser

_WITHOUT_ORDER = ("BOOL", "BYTES")

Tails = tuple[tuple[int, ...], ...]
"""For each input its shape without the batch dimension: requests that share it may share a
batch. The whole shape where the model does not batch."""


class OutputUnknown(InvalidArgument):
    reason = "OUTPUT_UNKNOWN"


class OutputRepeated(InvalidArgument):
    """A few bytes of a request would buy the whole output again."""

    reason = "OUTPUT_REPEATED"


@dataclass(slots=True)
class InputTensor:
    """One input as it came, unchecked."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Column
    shared: SharedPart | None = None
    """Where it lies in shared memory, until it was read from there; ``data`` is empty so long."""


@dataclass(slots=True)
class InferenceRequest:
    """One inference request, free of any transport."""

    model: str
    version: str
    inputs: list[InputTensor]
    outputs: list[str] = field(default_factory=list)
    """Names of the outputs wanted; all of them if empty."""
    classes: dict[str, int] = field(default_factory=dict)
    """Outputs of which only the largest values are wanted -> how many; see classification."""
    id: str = ""
    timeout: float | None = None
    """Seconds the request may wait and run; None for no bound of its own."""
    priority: int = 0
    """Its level, 1 being served first; 0 for the endpoint's default."""
    routing_key: str = ""
    """Requests of one key go to one version; "" for any version, by weight."""
    sequence: SequenceStep | None = None
    """Its place in a sequence; None if it belongs to none."""
    generation: Generation = field(default_factory=Generation)
    owner: str = ""
    """Who asks, the subject of their token; sequences of one owner are not another's."""
    stream: SequenceUser | None = None
    """The stream that it came by, if it did."""
    placed: dict[str, SharedPart] = field(default_factory=dict)
    """Outputs that are wanted in shared memory, and where; none once somebody sees to it."""

    @property
    def shares_memory(self) -> bool:
        """Whether it has to do with shared memory still."""
        return bool(self.placed) or any(tensor.shared is not None for tensor in self.inputs)


@dataclass(frozen=True, slots=True)
class Checked:
    """A request's inputs, found right, in the model's order."""

    columns: tuple[Column, ...]
    rows: int
    """The size of the batch dimension; 1 where the model does not batch."""
    tails: Tails
    outputs: tuple[int, ...]
    """Indices of the outputs wanted, in the order wanted."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    """Whether dimension 0 of every tensor is a batch of rows that do not see each other."""
    labels: tuple[str, ...] = ()
    """Names of the classes that the model tells apart; empty where it does not say."""

    @property
    def ragged(self) -> bool:
        """Whether requests choose more of the inputs' shapes than the number of rows."""
        return any(dim < 0 for spec in self.inputs for dim in tail_of(spec.shape, self.batched))

    def check(self, request: InferenceRequest, max_rows: int) -> Checked:
        """The request's inputs in the model's order.

        Raises:
            TensorInvalid: An input is missing, unknown, twice there, or of another datatype,
                shape or length than the model takes.
            OutputUnknown: An output is asked for that the model does not have.
            OutputRepeated: An output is asked for twice.
            ParameterUnsupported: A tensor is to be in shared memory, and nobody saw to it.
            ParameterInvalid: The largest values are wanted of an output without order.
        """
        if request.shares_memory:
            raise ParameterUnsupported(
                "the parameter 'shared_memory_region' is not supported by this server, or not for "
                "answers that are many; send tensors in the message",
                parameter="shared_memory_region",
            )
        given = {tensor.name: tensor for tensor in request.inputs}
        if len(given) != len(request.inputs):
            twice = _repeated(tensor.name for tensor in request.inputs)
            raise TensorInvalid(f"the input '{twice}' is there twice; send it once", tensor=twice)
        if given.keys() != {spec.name for spec in self.inputs}:
            self._refuse_names(given.keys())
        columns, tails, rows = [], [], -1
        for spec in self.inputs:
            tensor = given[spec.name]
            self._check_shape(spec, tensor)
            if isinstance(tensor.data, (bytes, memoryview)):
                columns.append(check_raw(spec.name, spec.datatype, tensor.shape, tensor.data))
            else:
                columns.append(tensor.data)
            if not self.batched:
                tails.append(tensor.shape)
                continue
            tails.append(tensor.shape[1:])
            if rows not in (-1, tensor.shape[0]):
                raise TensorInvalid(
                    f"input '{spec.name}' has {counted(tensor.shape[0], 'row')} and another has "
                    f"{rows}; all inputs of a request have the same",
                    tensor=spec.name,
                )
            rows = tensor.shape[0]
        if self.batched and not 0 < rows <= max_rows:
            raise TensorInvalid(
                f"a request of {counted(rows, 'row')}; this model takes "
                + (
                    f"1 to {max_rows}: send fewer at a time, or raise the endpoint's "
                    "batching.max_batch_rows (--max-batch-rows)"
                    if max_rows > 1
                    else "one"
                ),
                rows=rows,
            )
        outputs = self.select(request.outputs)
        if request.classes:
            self._check_classes(request.classes)
        return Checked(tuple(columns), rows if self.batched else 1, tuple(tails), outputs)

    def select(self, names: Sequence[str]) -> tuple[int, ...]:
        """Indices of the outputs of those names, all of them if none is named.

        Raises:
            OutputUnknown, OutputRepeated: See :meth:`check`.
        """
        if not names:
            return tuple(range(len(self.outputs)))
        index = {spec.name: position for position, spec in enumerate(self.outputs)}
        for name in names:
            if name not in index:
                raise OutputUnknown(
                    f"the model has no output '{name}'; it has {', '.join(index)}", output=name
                )
        refuse_repeated(names)
        return tuple(index[name] for name in names)

    def _check_classes(self, classes: Mapping[str, int]) -> None:
        for spec in self.outputs:
            if spec.name in classes and spec.datatype.name in _WITHOUT_ORDER:
                raise ParameterInvalid(
                    f"output '{spec.name}' is {spec.datatype.name}, of which there is no largest; "
                    "leave out the parameter 'classification'",
                    parameter="classification",
                )

    def _refuse_names(self, given: Iterable[str]) -> None:
        expected = ", ".join(f"'{spec.name}'" for spec in self.inputs)
        names = ", ".join(f"'{name}'" for name in given)
        found = f"the inputs {names}" if names else "no inputs"
        raise TensorInvalid(f"the request has {found}; the model takes {expected}")

    def _check_shape(self, spec: TensorSpec, tensor: InputTensor) -> None:
        if tensor.datatype != spec.datatype.name:
            raise TensorInvalid(
                f"input '{spec.name}' is {tensor.datatype or 'of no datatype'}; "
                f"the model takes {spec.datatype.name}",
                tensor=spec.name,
                expected=spec.datatype.name,
            )
        if any(dim < 0 for dim in tensor.shape):
            raise TensorInvalid(
                f"input '{spec.name}' has the shape {list(tensor.shape)}; a request's "
                "shape cannot be negative, also where the model takes any size (-1)",
                tensor=spec.name,
                expected=list(spec.shape),
            )
        fits = len(tensor.shape) == len(spec.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise TensorInvalid(
                f"input '{spec.name}' has the shape {list(tensor.shape)}; "
                f"the model takes {list(spec.shape)}",
                tensor=spec.name,
                expected=list(spec.shape),
            )


def refuse_repeated(outputs: Sequence[str]) -> None:
    """Raises OutputRepeated where an output is asked for twice."""
    if len(set(outputs)) != len(outputs):
        twice = _repeated(outputs)
        raise OutputRepeated(f"the output '{twice}' is asked for twice; name it once", output=twice)


def _repeated(names: Iterable[str]) -> str:
    """The first of the names that is there twice; one is."""
    return next(name for name, count in Counter(names).items() if count > 1)


def tail_of(shape: Sequence[int], batched: bool) -> tuple[int, ...]:
    """A shape without its batch dimension, if there is one."""
    return tuple(shape[1:]) if batched else tuple(shape)
