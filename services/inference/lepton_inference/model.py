"""A loaded model: its signature, its queue, its statistics, and the heads of its responses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from lepton_inference.batch import Outcome, Runner
from lepton_inference.batcher import NO_DEADLINE, Batcher
from lepton_inference.implicit_state import StateLayout
from lepton_inference.padding import Padding
from lepton_inference.parameters import Generation, ParameterInvalid
from lepton_inference.placement import Placement
from lepton_inference.recurrent import Recurrent, Step
from lepton_inference.response_cache import ResponseCache
from lepton_inference.sequences import Key, Sequences
from lepton_inference.settings import ModelSettings
from lepton_inference.shadow import Bond, lower_priority
from lepton_inference.signature import Checked, InferenceRequest, Signature
from lepton_inference.statistics import Statistics
from lepton_mesh.errors import LeptonError, Unimplemented


class Session(Runner, Protocol):
    """A model in memory, ready to run."""

    @property
    def signature(self) -> Signature: ...

    @property
    def placement(self) -> Placement: ...

    def close(self) -> None:
        """Gives its memory back."""
        ...


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a loaded model was loaded from."""

    name: str
    """The endpoint's name, which is the model's name in the protocol."""
    version: str
    """The version's number in the registry."""
    platform: str
    digest: str
    labels: tuple[str, ...] = ()
    """Names of the classes, as the registry has them."""


class ModelDecoupled(Unimplemented):
    """The model gives several answers to a request, and the method one."""

    reason = "MODEL_DECOUPLED"


class CallerGone(Exception):
    """The caller went away; what was asked has been dropped."""


Gone = Callable[[], Awaitable[bool]]
"""Says whether the caller went away, for transports that do not cancel by themselves."""

_GONE_POLL_SECONDS = 0.05
_LAST_SECONDS = 5.0
"""How long a model that is closed waits at least for requests that are still on their way to it."""

T = TypeVar("T")


async def unless_gone(future: asyncio.Future[T], gone: Gone) -> T:
    """The future's result; raises CallerGone, and cancels it, once the caller went."""
    watch = _Watch(future, gone)
    try:
        return await future
    except asyncio.CancelledError:
        if watch.lost:
            raise CallerGone from None
        raise
    finally:
        watch.stop()


async def _wait(future: asyncio.Future[None]) -> None:
    await future


class _Watch:
    """Asks now and then whether a caller is there; costs those who are soon answered little."""

    def __init__(self, future: asyncio.Future[Any], gone: Gone) -> None:
        self.lost = False
        self._future = future
        self._gone = gone
        self._task: asyncio.Task[None] | None = None
        self._handle = future.get_loop().call_later(_GONE_POLL_SECONDS, self._begin)

    def stop(self) -> None:
        # A question that is on its way is let come back: pyvoy answers into a future that may
        # not have been cancelled meanwhile.
        self._handle.cancel()

    def _begin(self) -> None:
        self._task = self._future.get_loop().create_task(self._poll())

    async def _poll(self) -> None:
        while not self._future.done():
            if await self._gone():
                self.lost = self._future.cancel()
                return
            await asyncio.wait((self._future,), timeout=_GONE_POLL_SECONDS)


class Model(Protocol):
    """What answers for an endpoint: a loaded model, or an ensemble of what others serve."""

    @property
    def source(self) -> ModelSource: ...

    @property
    def signature(self) -> Signature: ...

    @property
    def statistics(self) -> Statistics: ...

    @property
    def max_rows(self) -> int:
        """The most rows of a request."""
        ...

    @property
    def priority_levels(self) -> int: ...

    @property
    def decoupled(self) -> bool:
        """Whether it gives several answers to a request, by :meth:`generate`."""
        ...

    @property
    def sequences(self) -> Sequences | None:
        """Those whose states are kept; None for what keeps none."""
        ...

    def holds(self, sequence: Key) -> bool:
        """Whether the sequence goes on with this very model."""
        ...

    def unready(self) -> str:
        """Why it cannot answer now; "" if it can."""
        ...

    def in_use(self) -> AbstractContextManager[None]:
        """While a request that was routed to it is on its way to its queue, or will return."""
        ...

    async def infer(
        self, request: InferenceRequest, gone: Gone | None = None
    ) -> tuple[Checked, Outcome]:
        """Checks the request and answers it."""
        ...

    def generate(self, request: InferenceRequest) -> AsyncGenerator[Step]:
        """The answers of what is decoupled, each in a step of its own."""
        ...

    async def close(self, sequence_seconds: float = 0.0) -> None:
        """Finishes what it was asked, then gives its memory back."""
        ...


class LoadedModel:
    """One model version behind one endpoint. Made on the event loop that serves it.

    Args:
        source: What it was loaded from.
        session: The model in memory.
        settings: How it is served.
        background: Whether it never runs on the event loop, and on threads that yield to others.
    """

    def __init__(
        self,
        source: ModelSource,
        session: Session,
        settings: ModelSettings,
        *,
        background: bool = False,
    ) -> None:
        self.source = source
        self.session = session
        self.settings = settings
        self.statistics = Statistics()
        signature = session.signature
        self.max_rows = settings.batching.max_rows if signature.batched else 1
        """Of a request."""
        self.priority_levels = settings.batching.priority_levels
        instances = settings.execution.instances
        placement = session.placement
        batch_rows = self.max_rows
        # Whoever names sizes gets those.
        if placement.enough_rows and not settings.batching.preferred_rows:
            batch_rows = min(batch_rows, placement.enough_rows)
        inline_rows = 0 if background else placement.inline_rows
        inline = instances == 1 and batch_rows <= inline_rows
        self.inline_rows = inline_rows if inline else 0
        """Requests of so many are over so soon that nobody looks whether their caller is there."""
        self.batcher = Batcher(
            session,
            settings.batching,
            batched=signature.batched,
            batch_rows=batch_rows,
            inline_rows=inline_rows,
            instances=instances,
            padding=Padding(signature) if settings.batching.pad_ragged else None,
            statistics=self.statistics,
            prepare_thread=lower_priority if background else None,
        )
        self.shadow: Bond | None = None
        """To the shadow that is given a share of its requests; None for none."""
        cache_bytes = settings.response_cache_bytes
        self.cache = ResponseCache(cache_bytes, self.statistics) if cache_bytes else None
        self.recurrent: Recurrent | None = None
        """How it remembers; None for a model that does not."""
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self.signature = signature
        """What clients send and see."""
        if settings.sequences is not None:
            layout = StateLayout(signature, settings.sequences)
            self.recurrent = Recurrent(self.batcher, layout, settings.sequences, self.statistics)
            self.signature = layout.public
            self.max_rows = 1  # a sequence has one state

    @property
    def decoupled(self) -> bool:
        """Whether the model gives several answers to a request."""
        return self.recurrent is not None and bool(self.recurrent.settings.feed_back)

    @property
    def sequences(self) -> Sequences | None:
        """Those whose states are kept; None for a model that keeps none."""
        return None if self.recurrent is None else self.recurrent.sequences

    def holds(self, sequence: Key) -> bool:
        """Whether the sequence goes on with this very model."""
        return self.sequences is not None and self.sequences.holds(sequence)

    def unready(self) -> str:
        """ "": it has been loaded."""
        return ""

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """See Model; :meth:`close` waits for it."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def infer(
        self, request: InferenceRequest, gone: Gone | None = None
    ) -> tuple[Checked, Outcome]:
        """Checks the request and runs it in a batch with others.

        Raises:
            TensorInvalid, OutputUnknown: The request does not fit the model.
            ParameterInvalid: The endpoint has no such level of priority, or the model needs to
                know which sequence it is, or generates nothing.
            ModelDecoupled: It generates; see :meth:`generate`.
            SequenceUnknown, SequencesTooMany: See Sequences.
            QueueFull, RequestExpired, ModelUnloaded, InferenceFailed: From the batcher.
            CallerGone: ``gone`` said so while the request waited.
        """
        try:
            if self.decoupled:
                raise ModelDecoupled(
                    "this model answers a request many times; ask it by ModelStreamInfer, or over "
                    "REST by generate_stream"
                )
            _refuse_generation(request.generation)
            checked = self.signature.check(request, self.max_rows)
            deadline, level = self._deadline(request), self._level(request.priority)
        except LeptonError as error:
            self.statistics.fail(error.reason)
            raise
        if self.recurrent is not None:
            answering = self.recurrent.infer(request, checked, deadline, level)
            if gone is None:
                return checked, await answering
            return checked, await unless_gone(asyncio.ensure_future(answering), gone)
        submit = partial(
            self.batcher.submit,
            checked.columns,
            checked.rows,
            checked.tails,
            deadline,
            level,
        )
        if self.cache is not None:
            wait = _wait if gone is None else partial(unless_gone, gone=gone)
            with self.in_use():
                found = await self.cache.outcome(checked, submit, request.timeout, wait)
            if isinstance(found, tuple):
                return checked, found
            future = found
        else:
            future = submit()
        if gone is None or checked.rows <= self.inline_rows:
            outcome = await future
        else:
            outcome = await unless_gone(future, gone)
        if self.shadow is not None:
            self.shadow.offer(checked.columns, checked.rows, checked.tails, outcome)
        return checked, outcome

    def generate(self, request: InferenceRequest) -> AsyncGenerator[Step]:
        """The answers of a decoupled model, each in a step of its own.

        Close the generator to stop it at the next step. Raises what :meth:`infer` does.
        """
        if self.recurrent is None:
            raise ValueError("the model gives one answer to a request")
        try:
            checked = self.signature.check(request, self.max_rows)
            deadline, level = self._deadline(request), self._level(request.priority)
        except LeptonError as error:
            self.statistics.fail(error.reason)
            raise
        return self._in_use_during(self.recurrent.generate(request, checked, deadline, level))

    async def _in_use_during(self, steps: AsyncGenerator[Step]) -> AsyncGenerator[Step]:
        with self.in_use():
            async with contextlib.aclosing(steps):
                async for step in steps:
                    yield step

    def _deadline(self, request: InferenceRequest) -> float:
        return NO_DEADLINE if request.timeout is None else self.batcher.now() + request.timeout

    def _level(self, priority: int) -> int:
        """The level that a request's priority names; 0, the default, where there is but one."""
        levels = self.priority_levels
        if levels == 1:
            return 0
        if priority > levels:
            raise ParameterInvalid(
                f"the parameter 'priority' is {priority}; this endpoint has the levels 1 to "
                f"{levels}, and 0 for the default",
                parameter="priority",
            )
        return priority

    async def close(self, sequence_seconds: float = 0.0) -> None:
        """Finishes what is queued, then frees the session.

        Args:
            sequence_seconds: How long sequences, and requests that generate, may go on before;
                those that are left are ended.
        """
        if self.sequences is not None:
            await self.sequences.ended(sequence_seconds)
            self.sequences.close()
        if self._users:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._unused.wait(), max(sequence_seconds, _LAST_SECONDS))
        await self.batcher.close()
        # Giving back gigabytes takes a while.
        await asyncio.to_thread(self.session.close)


def _refuse_generation(generation: Generation) -> None:
    given = {
        "max_steps": generation.max_steps > 0,
        "end_value": generation.end_value is not None,
    }
    for name, is_given in given.items():
        if is_given:
            raise ParameterInvalid(
                f"the parameter '{name}' has no effect on a model that feeds nothing back",
                parameter=name,
            )
