"""Tensors of a request that lie in shared memory: read before it runs, written after.

What is read is a copy, so a caller who writes meanwhile changes values at most, and never what
was checked. A large copy is made on another thread. Copies are counted against a budget: a few
bytes of request may ask for many of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from lepton_inference.batch import Outcome
from lepton_inference.budget import Budget, Held
from lepton_inference.classification import classified
from lepton_inference.model import Gone, Model
from lepton_inference.parameters import SharedPart
from lepton_inference.serving import Admitted
from lepton_inference.shared_memory import Region, SharedMemory, SharedMemoryRange
from lepton_inference.signature import Checked, InferenceRequest, InputTensor
from lepton_inference.tensors import (
    Buffer,
    Column,
    Datatype,
    TensorInvalid,
    check_raw,
    element_count,
)
from lepton_inference.wire import datatype_named, raw_output
from lepton_mesh.errors import LeptonError

_INLINE_BYTES = 64 << 10
"""Copied on the event loop: that takes 4 us, handing it to a thread ten times as long."""

_ELEMENT_BYTES = 64
"""What an element of a BYTES tensor takes beside its text, as a Python object, about."""

Placed = Mapping[int, SharedPart]
"""Index of an output -> where it was written; the others go in the message."""


class SharedTensors:
    """Reads and writes what requests have in shared memory.

    Args:
        memory: Whose regions are whose.
        max_bytes: Bytes of copies that are held at a time.
    """

    def __init__(self, memory: SharedMemory, max_bytes: int) -> None:
        self.memory = memory
        self._limit = max_bytes
        self._budget = Budget(max_bytes)

    async def infer(
        self, admitted: Admitted, model: Model, request: InferenceRequest, gone: Gone | None
    ) -> tuple[Checked, Outcome, Placed]:
        """As ``model.infer``, with the request's inputs and outputs where they lie.

        Raises:
            RegionNotFound, SharedMemoryKeyNotFound: Memory that the caller does not have.
            SharedMemoryRange: Memory that ends too soon, for an output too; none is written then.
            BodiesTooMany: Others hold so much that there is no room for a copy.
        """
        placed, request.placed = request.placed, {}
        held = Held(self._budget)
        try:
            with model.in_use():  # reading may take a while, and the model be replaced meanwhile
                try:
                    for tensor in request.inputs:
                        if tensor.shared is not None:
                            await self._read(admitted, tensor, tensor.shared, held)
                    for part in placed.values():
                        self.memory.find(admitted, part)
                except LeptonError as error:
                    model.statistics.fail(error.reason)
                    raise
                checked, outcome = await _infer(admitted, model, request, gone)
        finally:
            held.release()
        parts = {
            index: placed[name]
            for index in checked.outputs
            if (name := model.signature.outputs[index].name) in placed
        }
        return checked, outcome, await self._write(admitted, model, parts, checked, outcome)

    async def _read(
        self, admitted: Admitted, tensor: InputTensor, part: SharedPart, held: Held
    ) -> None:
        """Puts a copy of the input's bytes in its place."""
        region = self.memory.find(admitted, part)
        datatype = datatype_named(tensor.name, tensor.datatype)
        count = element_count(tensor.shape, tensor.name)
        expected = count * datatype.itemsize
        if datatype.itemsize and part.size != expected:
            raise TensorInvalid(
                f"input '{tensor.name}' has {part.size} bytes in shared memory; {datatype.name} of "
                f"the shape {list(tensor.shape)} takes {expected}",
                tensor=tensor.name,
                bytes=part.size,
                expected=expected,
            )
        if part.size > self._limit:
            raise SharedMemoryRange(
                f"input '{tensor.name}' has {part.size} bytes in shared memory; this server reads "
                f"{self._limit} at most (LEPTON_MAX_BYTES_IN_FLIGHT)",
                bytes=part.size,
                expected=self._limit,
            )
        held.add(part.size)
        if not datatype.itemsize:
            # An element has four bytes at least; a claim of more is found out when it is read.
            held.add(_ELEMENT_BYTES * min(count, part.size // 4))
        if part.size <= _INLINE_BYTES and region.memory.quick:
            tensor.data = _column(region, tensor, part, datatype)
        else:
            tensor.data = await asyncio.to_thread(_column, region, tensor, part, datatype)
        tensor.shared = None

    async def _write(
        self,
        admitted: Admitted,
        model: Model,
        parts: Placed,
        checked: Checked,
        outcome: Outcome,
    ) -> Placed:
        """Puts the outputs into those parts; one that does not fit keeps all from it."""
        placed: dict[int, SharedPart] = {}
        writes: list[tuple[Region, int, Buffer]] = []
        for index, part in parts.items():
            # Asked again: it may have gone while the request ran.
            region = self.memory.find(admitted, part)
            raw = raw_output(outcome, index, checked.rows)
            if len(raw) > part.size:
                name = model.signature.outputs[index].name
                raise SharedMemoryRange(
                    f"output '{name}' has {len(raw)} bytes; the part of the region "
                    f"'{part.region}' that it was to go to has {part.size}",
                    bytes=part.size,
                    expected=len(raw),
                )
            placed[index] = SharedPart(part.region, part.offset, len(raw))
            writes.append((region, region.offset + part.offset, raw))
        small = sum(len(raw) for _, _, raw in writes) <= _INLINE_BYTES
        if small and all(region.memory.quick for region, _, _ in writes):
            _write_all(writes)
        else:
            await asyncio.to_thread(_write_all, writes)
        return placed


async def infer(
    shared: SharedTensors | None,
    admitted: Admitted,
    model: Model,
    request: InferenceRequest,
    gone: Gone | None,
) -> tuple[Checked, Outcome, Placed]:
    """``model.infer``, by way of shared memory where the request says so and there is any."""
    if shared is None or not request.shares_memory:
        return *await _infer(admitted, model, request, gone), _NOWHERE
    return await shared.infer(admitted, model, request, gone)


_NOWHERE: Placed = {}


async def _infer(
    admitted: Admitted, model: Model, request: InferenceRequest, gone: Gone | None
) -> tuple[Checked, Outcome]:
    """``model.infer``: traced where it is the request's turn, ranked where it wants classes."""
    sampler = admitted.workspace.tracing.sampler(request.model)
    if sampler is None or not sampler.due():
        checked, outcome = await model.infer(request, gone)
    else:
        with sampler.span(model.source) as traced:
            checked, outcome = await model.infer(request, gone)
            traced.answered(outcome)
    return checked, await ranked(model, request, checked, outcome)


async def ranked(
    model: Model, request: InferenceRequest, checked: Checked, outcome: Outcome
) -> Outcome:
    """The outcome, with the largest values ranked where the request wants no others.

    Raises:
        ParameterInvalid: More classes are wanted than are given at a time.
    """
    if not request.classes:
        return outcome
    signature = model.signature
    labels = signature.labels or model.source.labels
    arguments = outcome, checked.rows, signature.outputs, request.classes, labels
    views = outcome[0].views
    if sum(len(view) for view in views if view is not None) <= _INLINE_BYTES:
        return classified(*arguments)
    # Sorting large outputs would hold up every other request.
    return await asyncio.to_thread(classified, *arguments)


def _column(region: Region, tensor: InputTensor, part: SharedPart, datatype: Datatype) -> Column:
    raw = region.memory.read(region.offset + part.offset, part.size)
    # The elements of a long BYTES tensor take as long to find as to copy, and longer.
    return check_raw(tensor.name, datatype, tensor.shape, raw)


def _write_all(writes: list[tuple[Region, int, Buffer]]) -> None:
    for region, offset, raw in writes:
        region.memory.write(offset, raw)
