"""An ensemble as it is served: its signature, and the way of a request through its steps.

Each step asks its endpoint as a caller would, in a batch with others' requests. Tensors are
handed on as views of the memory that the step before has written; nothing is serialized. A step
follows its endpoint: whatever that serves by then is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_inference.batch import Batch, Outcome
from lepton_inference.endpoint import EndpointNotFound
from lepton_inference.ensemble import Ensemble, EnsembleInvalid, EnsembleStep, check_depth
from lepton_inference.ensemble_tensors import add_step
from lepton_inference.model import Gone, Model, ModelSource, unless_gone
from lepton_inference.parameters import ParameterInvalid
from lepton_inference.recurrent import Step
from lepton_inference.sequences import Key
from lepton_inference.serving import EndpointFailed, EndpointNotReady, EndpointUnloaded, Workspace
from lepton_inference.signature import Checked, InferenceRequest, InputTensor, Signature
from lepton_inference.statistics import Statistics
from lepton_inference.tensors import Column, TensorSpec
from lepton_inference.wire import output_shape, raw_output
from lepton_mesh.errors import LeptonError, Unavailable

PLATFORM = "ensemble"
VERSION = "1"
"""An ensemble has no versions; the protocol wants one."""

Instead = Mapping[str, Sequence[Model]]
"""Endpoint -> the models that are taken for those it serves."""


class EnsembleNotReady(Unavailable):
    """A step's endpoint serves nothing now."""

    reason = "ENSEMBLE_NOT_READY"


@dataclass(slots=True)
class _Tensor:
    """A tensor on its way from step to step."""

    datatype: str
    shape: tuple[int, ...]
    column: Column
    array: np.ndarray[Any, Any] | None = None
    """The same as an array; None for the ensemble's inputs, which nobody asks back."""


@dataclass(frozen=True, slots=True)
class _Derived:
    """What follows from the models that the steps' endpoints serve."""

    revision: int
    signature: Signature
    max_rows: int
    priority_levels: int
    depth: int
    """Ensembles one within another."""


class EnsembleModel:
    """One ensemble behind one endpoint.

    Args:
        name: The endpoint's.
        ensemble: Which passed :func:`lepton_inference.ensemble.check_ensemble`.
        workspace: Where the steps' endpoints are.
    """

    def __init__(self, name: str, ensemble: Ensemble, workspace: Workspace) -> None:
        self.source = ModelSource(name, VERSION, PLATFORM, digest="")
        self.ensemble = ensemble
        self.statistics = Statistics()
        self._workspace = workspace
        self._order = ensemble.order()
        self._needs = ensemble.needs()
        self._chain = all(
            before in self._needs[step]
            for before, step in zip(self._order, self._order[1:], strict=False)
        )
        """Whether no two steps could run at a time."""
        self._known: _Derived | None = None
        self._deriving = False

    @property
    def signature(self) -> Signature:
        """What it takes and gives; raises EnsembleNotReady and EnsembleInvalid."""
        return self._derived().signature

    @property
    def max_rows(self) -> int:
        """The most rows of a request: as many as every step takes."""
        return self._derived().max_rows

    @property
    def priority_levels(self) -> int:
        """The most levels that any step has."""
        return self._derived().priority_levels

    def unready(self) -> str:
        """Why it cannot answer now; "" if it can."""
        try:
            self._derived()
        except LeptonError as error:
            return error.message
        return ""

    def check(self, instead: Instead | None = None) -> None:
        """Raises what asking it would.

        Args:
            instead: Models that would be served in the place of those that are.

        Raises:
            EnsembleNotReady: A step's endpoint serves nothing.
            EnsembleInvalid: The steps do not fit each other.
        """
        if instead:
            self._derive(instead)
        else:
            self._derived()

    async def infer(
        self, request: InferenceRequest, gone: Gone | None = None
    ) -> tuple[Checked, Outcome]:
        """Checks the request and runs it through the steps.

        Raises:
            EnsembleNotReady, EnsembleInvalid: See :meth:`check`.
            TensorInvalid, OutputUnknown: The request does not fit the ensemble.
            ParameterInvalid: No step has such a level of priority.
            LeptonError: What a step raised; its message names the step.
            CallerGone: ``gone`` said so while a step was waited for.
        """
        started = time.perf_counter_ns()
        try:
            derived = self._derived()
            checked = derived.signature.check(request, derived.max_rows)
            _check_priority(request.priority, derived.priority_levels)
            if gone is None:
                outcome = await self._run(derived.signature, request, checked)
            else:
                task = asyncio.ensure_future(self._run(derived.signature, request, checked))
                outcome = await unless_gone(task, gone)
        except LeptonError as error:
            self.statistics.fail(error.reason, time.perf_counter_ns() - started)
            raise
        self.statistics.answered(checked.rows, started)
        return checked, outcome

    @property
    def decoupled(self) -> bool:
        """False: no step may be."""
        return False

    @property
    def sequences(self) -> None:
        """None: steps keep those of their endpoints."""
        return None

    def holds(self, sequence: Key) -> bool:
        """False, as above."""
        return False

    def in_use(self) -> AbstractContextManager[None]:
        """Nothing: each step asks what its endpoint serves by then."""
        return nullcontext()

    def generate(self, request: InferenceRequest) -> AsyncGenerator[Step]:
        """Never asked of what is not decoupled."""
        raise ValueError("an ensemble gives one answer to a request")

    async def close(self, sequence_seconds: float = 0.0) -> None:
        """Nothing: its steps' models belong to their endpoints."""

    # --- A request's way ---------------------------------------------------------------------

    async def _run(
        self, signature: Signature, request: InferenceRequest, checked: Checked
    ) -> Outcome:
        deadline = None if request.timeout is None else time.monotonic() + request.timeout
        shapes = {tensor.name: tensor.shape for tensor in request.inputs}
        tensors = {
            spec.name: _Tensor(spec.datatype.name, shapes[spec.name], column)
            for spec, column in zip(signature.inputs, checked.columns, strict=True)
        }
        if self._chain:
            for index in self._order:
                await self._step(self.ensemble.steps[index], tensors, request, deadline)
        else:
            await self._run_together(tensors, request, deadline)
        arrays = [tensors[name].array for name in self.ensemble.outputs]
        batch = Batch(
            [array for array in arrays if array is not None], checked.rows, signature.batched
        )
        return batch, 0

    async def _run_together(
        self, tensors: dict[str, _Tensor], request: InferenceRequest, deadline: float | None
    ) -> None:
        """Every step as soon as what it needs is there."""
        running: dict[int, asyncio.Task[None]] = {}

        async def run(index: int) -> None:
            for needed in self._needs[index]:
                await running[needed]
            await self._step(self.ensemble.steps[index], tensors, request, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                for index in self._order:
                    running[index] = group.create_task(run(index))
        except BaseExceptionGroup as errors:
            # The first is the cause; the others waited for it, or were under way.
            raise errors.exceptions[0] from None

    async def _step(
        self,
        step: EnsembleStep,
        tensors: dict[str, _Tensor],
        request: InferenceRequest,
        deadline: float | None,
    ) -> None:
        """Asks one endpoint, and adds what it makes to ``tensors``."""
        try:
            served = self._workspace.find(step.endpoint)
            asked = InferenceRequest(
                model=step.endpoint,
                version=step.model_version,
                inputs=[
                    InputTensor(name, tensor.datatype, tensor.shape, tensor.column)
                    for name, tensor in ((n, tensors[t]) for n, t in step.inputs.items())
                ],
                outputs=list(step.outputs),
                timeout=None if deadline is None else deadline - time.monotonic(),
                routing_key=request.routing_key,
                generation=request.generation,
                sequence=request.sequence,
                owner=request.owner,
                stream=request.stream,
            )
            model = served.route(asked)
            # Steps differ in their levels: what is beyond a step's is its last.
            asked.priority = min(request.priority, model.priority_levels)
            checked, outcome = await model.infer(asked)
        except LeptonError as error:
            _name_step(error, step)
            raise
        batch, first = outcome
        for index, tensor in zip(checked.outputs, step.outputs.values(), strict=True):
            array = batch.arrays[index]
            if batch.batched:
                array = array[first : first + checked.rows]
            spec = model.signature.outputs[index]
            tensors[tensor] = _Tensor(
                spec.datatype.name,
                output_shape(array, batch, checked.rows),
                array if spec.datatype.itemsize == 0 else raw_output(outcome, index, checked.rows),
                array,
            )

    # --- What follows from the steps ---------------------------------------------------------

    def _derived(self) -> _Derived:
        known = self._known
        if known is None or known.revision != self._workspace.revision:
            known = self._known = self._derive({})
        return known

    def _derive(self, instead: Instead) -> _Derived:
        if self._deriving:
            raise EnsembleInvalid(
                f"the ensemble '{self.source.name}' is a step of itself", step=self.source.name
            )
        self._deriving = True
        try:
            models = [self._models(step, instead) for step in self.ensemble.steps]
            parts = [[_part(model, instead) for model in of_step] for of_step in models]
        finally:
            self._deriving = False
        tensors: dict[str, TensorSpec] = {}
        for index in self._order:
            for part in parts[index]:
                add_step(tensors, self.ensemble.steps[index], part.signature)
        every = [part for of_step in parts for part in of_step]
        batched = all(part.signature.batched for part in every)
        makers = self.ensemble.makers
        return _Derived(
            revision=self._workspace.revision,
            signature=Signature(
                inputs=tuple(spec for name, spec in tensors.items() if name not in makers),
                outputs=tuple(tensors[name] for name in self.ensemble.outputs),
                batched=batched,
            ),
            max_rows=min(part.max_rows for part in every) if batched else 1,
            priority_levels=max(part.priority_levels for part in every),
            depth=check_depth(
                1 + max(part.depth if isinstance(part, _Derived) else 0 for part in every)
            ),
        )

    def _models(self, step: EnsembleStep, instead: Instead) -> Sequence[Model]:
        """The models that may be asked at a step."""
        models = instead.get(step.endpoint)
        if models is None:
            try:
                served = self._workspace.find(step.endpoint)
                served.pick()
            except (EndpointFailed, EndpointNotFound, EndpointNotReady, EndpointUnloaded) as error:
                raise EnsembleNotReady(
                    f"step '{step.endpoint}': {error.message}", step=step.endpoint
                ) from None
            models = served.models
        if any(model.decoupled for model in models):
            raise EnsembleInvalid(
                f"step '{step.endpoint}' gives several answers to a request, and an ensemble one",
                step=step.endpoint,
            )
        if not step.model_version:
            return models
        chosen = [model for model in models if model.source.version == step.model_version]
        if not chosen:
            raise EnsembleInvalid(
                f"step '{step.endpoint}' wants the version '{step.model_version}'; the endpoint "
                f"serves {', '.join(model.source.version for model in models)}",
                step=step.endpoint,
            )
        return chosen


def _check_priority(priority: int, levels: int) -> None:
    """Raises ParameterInvalid, as a model does, for a level that no step has."""
    if priority > levels > 1:
        raise ParameterInvalid(
            f"the parameter 'priority' is {priority}; the steps have the levels 1 to {levels} at "
            "most, and 0 for the default",
            parameter="priority",
        )


def _name_step(error: LeptonError, step: EnsembleStep) -> None:
    error.message = f"step '{step.endpoint}': {error.message}"
    error.args = (error.message,)
    error.metadata.setdefault("step", step.endpoint)


def _part(model: Model, instead: Instead) -> Model | _Derived:
    """What a step's model takes and gives, where it is an ensemble with those models instead."""
    return model._derive(instead) if isinstance(model, EnsembleModel) else model
