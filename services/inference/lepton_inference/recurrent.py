"""Requests to a model that remembers: their sequences' turns, and the steps they generate.

A request has one row, as Triton's sequence batcher has it; rows of different sequences share
batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import NamedTuple

from lepton_inference.batch import Outcome
from lepton_inference.batcher import NO_DEADLINE, Batcher
from lepton_inference.implicit_state import State, StateLayout
from lepton_inference.parameters import ParameterInvalid
from lepton_inference.sequences import Sequences, Turn
from lepton_inference.settings import SequenceSettings
from lepton_inference.signature import Checked, InferenceRequest
from lepton_inference.statistics import Statistics
from lepton_inference.tensors import Column
from lepton_mesh.errors import LeptonError


class Step(NamedTuple):
    """One answer of several to a request."""

    checked: Checked
    outcome: Outcome
    final: bool


class Recurrent:
    """A model's states and how its requests are run.

    Args:
        batcher: The model's.
        layout: Which tensors are carried on.
        settings: Bounds.
        statistics: Where refusals are counted.
    """

    def __init__(
        self,
        batcher: Batcher,
        layout: StateLayout,
        settings: SequenceSettings,
        statistics: Statistics,
    ) -> None:
        self._batcher = batcher
        self.layout = layout
        self.settings = settings
        self._statistics = statistics
        self.sequences = (
            Sequences(
                layout.zeros,
                limit=settings.max_sequences,
                idle_seconds=settings.max_idle_seconds,
                max_waiting=batcher.max_queue,
            )
            if settings.states
            else None
        )
        """None for a model that only feeds back."""

    async def infer(
        self, request: InferenceRequest, checked: Checked, deadline: float, level: int
    ) -> Outcome:
        """One request, one answer.

        Args:
            request: Of one row.
            checked: Its tensors.
            deadline: On the batcher's clock.
            level: Of priority.

        Raises:
            ParameterInvalid: It names no sequence.
            SequenceUnknown, SequencesTooMany: See Sequences.
            QueueFull, RequestExpired, ModelUnloaded, InferenceFailed: From the batcher.
            StateMalformed: The model does not do what its graph declares.
        """
        async with self._turn(request, deadline) as turn:
            outcome = await self._run(checked, checked.columns, turn.state, deadline, level)
            with self._counted():
                turn.state = self.layout.state(outcome)
        return self.layout.seen(outcome)

    async def generate(
        self, request: InferenceRequest, checked: Checked, deadline: float, level: int
    ) -> AsyncGenerator[Step]:
        """One request, an answer for each step; as :meth:`infer`.

        The sequence keeps the state of the last step once that one was taken. If the request
        ends in any other way, it stays as it was before.
        """
        with self._counted():
            steps = self._most_steps(request)
        end_value = request.generation.end_value
        columns: Sequence[Column] = checked.columns
        async with self._turn(request, deadline) as turn:
            state, final = turn.state, False
            while not final:
                outcome = await self._run(checked, columns, state, deadline, level)
                with self._counted():
                    state = self.layout.state(outcome)
                    columns = self.layout.fed_back(columns, outcome)
                steps -= 1
                final = not steps or (
                    end_value is not None and self.layout.is_end(outcome, end_value)
                )
                yield Step(checked, self.layout.seen(outcome), final)
            turn.state = state

    @contextlib.asynccontextmanager
    async def _turn(self, request: InferenceRequest, deadline: float) -> AsyncIterator[Turn]:
        if self.sequences is None:
            yield Turn(())
            return
        async with contextlib.AsyncExitStack() as stack:
            with self._counted():
                if request.sequence is None:
                    raise ParameterInvalid(
                        "this model keeps a state for each sequence; name yours by the parameter "
                        "'sequence_id', other than 0 and \"\", and begin it with 'sequence_start'",
                        parameter="sequence_id",
                    )
                seconds = None if deadline == NO_DEADLINE else deadline - self._batcher.now()
                turn = await stack.enter_async_context(
                    self.sequences.turn(request.owner, request.sequence, request.stream, seconds)
                )
            yield turn

    async def _run(
        self,
        checked: Checked,
        columns: Sequence[Column],
        state: State,
        deadline: float,
        level: int,
    ) -> Outcome:
        return await self._batcher.submit(
            self.layout.columns(columns, state),
            checked.rows,
            self.layout.tails(checked.tails),
            deadline,
            level,
        )

    def _most_steps(self, request: InferenceRequest) -> int:
        asked, most = request.generation.max_steps, self.settings.max_steps
        if asked > most:
            raise ParameterInvalid(
                f"the parameter 'max_steps' is {asked}; this endpoint allows {most}",
                parameter="max_steps",
            )
        return asked or most

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except LeptonError as error:
            self._statistics.fail(error.reason)
            raise
