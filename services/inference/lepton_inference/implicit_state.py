"""Which tensors of a model stay inside the server: states, and outputs that are fed back.

A state is an output of one request that is an input of the next one of its sequence, zeros at
the start (Triton calls it implicit state). Clients neither send nor see it: the signature that
they are shown is the model's without its states. An output that is fed back is seen: it is
what a step answers, and the input of the next step of the same request.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lepton_inference.batch import Outcome
from lepton_inference.settings import EndpointInvalid, Link, SequenceSettings
from lepton_inference.signature import Signature, Tails, tail_of
from lepton_inference.tensors import Column, TensorSpec
from lepton_mesh.errors import Internal

State = tuple[bytes, ...]
"""Raw, in the order of the settings' states; one row of each."""


class StateMalformed(Internal):
    """An output that is carried on has not the shape that the model's graph declares."""

    reason = "STATE_MALFORMED"


class StateLayout:
    """Where a model's states and fed-back outputs are among its tensors.

    Raises:
        EndpointInvalid: A tensor does not exist, cannot be carried on, or nothing is left for
            clients to send or to see.
    """

    def __init__(self, signature: Signature, settings: SequenceSettings) -> None:
        inputs = {spec.name: index for index, spec in enumerate(signature.inputs)}
        outputs = {spec.name: index for index, spec in enumerate(signature.outputs)}
        for link in (*settings.states, *settings.feed_back):
            _check(link, signature, inputs, outputs)
        hidden_inputs = {link.input for link in settings.states}
        hidden_outputs = {link.output for link in settings.states}
        self.public = Signature(
            _without(signature.inputs, hidden_inputs),
            _without(signature.outputs, hidden_outputs),
            signature.batched,
            signature.labels,
        )
        """What clients send and see."""
        if not self.public.inputs or not self.public.outputs:
            raise EndpointInvalid(
                "sequences.states leaves the model without an input or without an output; one of "
                "each must be the clients'",
                field="sequences.states",
            )
        self.states = tuple(signature.inputs[inputs[link.input]] for link in settings.states)
        """The inputs that carry states."""
        self.zeros: State = tuple(bytes(_row_bytes(spec, signature)) for spec in self.states)
        """The state at the start of a sequence."""
        self._outputs = tuple(outputs[spec.name] for spec in self.public.outputs)
        self._carried = tuple(
            (outputs[link.output], size)
            for link, size in zip(settings.states, map(len, self.zeros), strict=True)
        )
        self._state_tails = tuple(tail_of(spec.shape, signature.batched) for spec in self.states)
        sent = [spec.name for spec in self.public.inputs] + [link.input for link in settings.states]
        self._order = tuple(sent.index(spec.name) for spec in signature.inputs)
        """For each input of the model, its place among the public ones followed by the states."""
        sent_inputs = {spec.name: index for index, spec in enumerate(self.public.inputs)}
        self._fed = tuple(
            (
                sent_inputs[link.input],
                outputs[link.output],
                _row_bytes(signature.outputs[outputs[link.output]], signature),
            )
            for link in settings.feed_back
        )
        if self._fed:
            self._first_fed = signature.outputs[self._fed[0][1]].datatype.dtype

    def columns(self, public: Sequence[Column], state: State) -> tuple[Column, ...]:
        """The model's inputs, in its order."""
        together = (*public, *state)
        return tuple([together[place] for place in self._order])

    def tails(self, public: Tails) -> Tails:
        """The tails of the model's inputs, in its order."""
        together = (*public, *self._state_tails)
        return tuple(together[place] for place in self._order)

    def state(self, outcome: Outcome) -> State:
        """The state that a request of one row leaves behind; raises StateMalformed."""
        return tuple([_row(outcome, index, size) for index, size in self._carried])

    def fed_back(self, public: Sequence[Column], outcome: Outcome) -> tuple[Column, ...]:
        """The inputs of the next step after one of ``public``; raises StateMalformed."""
        columns = list(public)
        for place, index, size in self._fed:
            columns[place] = _row(outcome, index, size)
        return tuple(columns)

    def is_end(self, outcome: Outcome, end_value: float) -> bool:
        """Whether the first fed-back output is ``end_value`` in all of its elements."""
        _, index, size = self._fed[0]
        values = np.frombuffer(_row(outcome, index, size), self._first_fed)
        return bool((values == end_value).all())

    def seen(self, outcome: Outcome) -> Outcome:
        """The part of an outcome that is the client's: without the states."""
        batch, first = outcome
        return batch.part(self._outputs), first


def _check(
    link: Link, signature: Signature, inputs: dict[str, int], outputs: dict[str, int]
) -> None:
    for side, name, known in (("output", link.output, outputs), ("input", link.input, inputs)):
        if name not in known:
            raise EndpointInvalid(
                f"the model has no {side} '{name}' that sequences names; it has {', '.join(known)}",
                field="sequences",
            )
    given, taken = signature.outputs[outputs[link.output]], signature.inputs[inputs[link.input]]
    shapes = tail_of(given.shape, signature.batched), tail_of(taken.shape, signature.batched)
    if given.datatype != taken.datatype or not given.datatype.itemsize or shapes[0] != shapes[1]:
        raise EndpointInvalid(
            f"the output '{link.output}' ({_described(given)}) cannot be the input "
            f"'{link.input}' ({_described(taken)}) of the next run: both have one shape and one "
            "datatype, which is not BYTES",
            field="sequences",
        )
    if any(dim < 0 for dim in shapes[0]):
        raise EndpointInvalid(
            f"the input '{link.input}' ({_described(taken)}) cannot be carried from one run to "
            "the next: its dimensions beyond the batch, which is the first, must be fixed",
            field="sequences",
        )


def _described(spec: TensorSpec) -> str:
    return f"{spec.datatype.name} {list(spec.shape)}"


def _without(specs: Iterable[TensorSpec], names: set[str]) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in specs if spec.name not in names)


def _row_bytes(spec: TensorSpec, signature: Signature) -> int:
    return math.prod(tail_of(spec.shape, signature.batched)) * spec.datatype.itemsize


def _row(outcome: Outcome, index: int, size: int) -> bytes:
    """A request's row of an output, copied: it outlives the batch."""
    batch, first = outcome
    rows = batch.rows if batch.batched else 1
    view = batch.views[index]
    if view is None or len(view) != rows * size:
        raise StateMalformed(
            "the model's output is not of the shape that its graph declares; export the model "
            "anew. The sequence is as it was"
        )
    return bytes(view[first * size : (first + 1) * size])
