"""The sequences of one model: the state of each, who may go on with it, and for how long.

Requests of a sequence take turns in the order in which they came. A turn that ends well leaves
its state behind; one that fails, expires or is cancelled leaves the sequence as it was before.
A sequence is kept until its end is said, until nobody has asked for a while, or until the
stream breaks off by which it was last used.

No owner keeps others out. Of n owners who keep some, each may begin another while it has fewer
than a share of n + 1: what is left is there for who comes next. An owner who has more, from when
there were fewer, begins none until it is below its share again, and keeps what it has until
somebody needs it: where as many are kept as may be, and an owner who has fewer than its share
begins another, the one of the owner with the most that was idle for longest is ended.

    FailedPrecondition  <- SequenceUnknown    never begun here, or ended
    ResourceExhausted   <- SequencesTooMany   as many are kept as the owner may, or as may be
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from weakref import WeakSet

from lepton_inference.batch_queue import RequestExpired
from lepton_inference.batcher import QueueFull
from lepton_inference.implicit_state import State
from lepton_inference.parameters import SequenceId, SequenceStep
from lepton_mesh.errors import FailedPrecondition, ResourceExhausted

_LONGEST_RETRY_SECONDS = 60.0
_SHORTEST_TIMER_SECONDS = 0.001

Key = tuple[str, SequenceId]
"""A sequence's owner and its id."""


class SequenceUnknown(FailedPrecondition):
    reason = "SEQUENCE_UNKNOWN"


class SequencesTooMany(ResourceExhausted):
    reason = "SEQUENCES_TOO_MANY"


class _Slot:
    """What is kept of one sequence."""

    __slots__ = ("__weakref__", "begun", "key", "lock", "requests", "state", "used", "user")

    def __init__(self, key: Key, state: State) -> None:
        self.key = key
        self.state = state
        self.begun = False
        """Whether a request of it ended well and none ended it; who waits may begin it anew."""
        self.requests = 0
        """Those whose turn it is or will be."""
        self.used = 0.0
        self.user: SequenceUser | None = None
        """The stream that used it last, if it was one."""
        self.lock = asyncio.Lock()


class SequenceUser:
    """A stream, whose sequences go with it when it breaks off."""

    def __init__(self) -> None:
        self._used: WeakSet[_Slot] = WeakSet()
        self._of: WeakSet[Sequences] = WeakSet()

    def abandon(self) -> None:
        """Forgets what it was the last to use: nobody knows how far it was answered."""
        for slot in list(self._used):
            for sequences in self._of:
                if slot.user is self:
                    sequences.drop(slot)

    def uses(self, slot: _Slot, sequences: Sequences) -> None:
        """Notes that it used a sequence."""
        self._used.add(slot)
        self._of.add(sequences)


class Turn:
    """A request's turn in its sequence."""

    __slots__ = ("state",)

    def __init__(self, state: State) -> None:
        self.state = state
        """Before the turn's work what is there, after it what is to be kept."""


class Sequences:
    """Lives on the event loop that serves.

    Args:
        zeros: The state in which a sequence begins.
        limit: Sequences that are kept at a time, of all owners.
        idle_seconds: How long one is kept that nobody asks for.
        max_waiting: Requests that may wait for their turns.
        now: A clock, seconds.
    """

    def __init__(
        self,
        zeros: State,
        *,
        limit: int,
        idle_seconds: float,
        max_waiting: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._zeros = zeros
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._max_waiting = max_waiting
        self._now = now
        self._slots: OrderedDict[Key, _Slot] = OrderedDict()
        """The one longest unused first."""
        self._kept: Counter[str] = Counter()
        """Owner -> how many of them; none who have none."""
        self._requests = 0
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def live(self) -> int:
        """Sequences that are kept."""
        return len(self._slots)

    def holds(self, key: Key) -> bool:
        """Whether the sequence is kept, or about to begin."""
        return key in self._slots

    @contextlib.asynccontextmanager
    async def turn(
        self,
        owner: str,
        step: SequenceStep,
        user: SequenceUser | None = None,
        seconds: float | None = None,
    ) -> AsyncIterator[Turn]:
        """The turn of a request: waits for those before it.

        Args:
            owner: Whose sequence it is.
            step: Which one, and whether it begins or ends.
            user: The stream that the request came by.
            seconds: How long it may wait; None for no bound.

        Raises:
            RequestExpired: Its turn did not come in time.
            SequenceUnknown: It is to go on, and is not kept.
            SequencesTooMany: It is to begin, and the owner's share is kept, or as many as may be
                are and none can be ended for it.
            QueueFull: As many requests wait as may.
        """
        slot = self._enter((owner, step.id), step)
        try:
            await _locked(slot.lock, seconds)
            try:
                if self._slots.get(slot.key) is not slot or not (step.start or slot.begun):
                    raise _unknown(step.id)
                turn = Turn(self._zeros if step.start else slot.state)
                yield turn
                slot.state = turn.state
                slot.begun = not step.end
                slot.user = user
                if user is not None:
                    user.uses(slot, self)
            finally:
                slot.lock.release()
        finally:
            self._leave(slot)

    def forget(self, key: Key) -> None:
        """Ends a sequence, if it is kept."""
        slot = self._slots.get(key)
        if slot is not None:
            self.drop(slot)

    def drop(self, slot: _Slot) -> None:
        """Ends a sequence, if it is still the one that is kept; what runs of it leaves nothing."""
        if self._slots.get(slot.key) is slot:
            del self._slots[slot.key]
            self._count(slot.key[0], -1)
            if not self._slots:
                self._empty.set()

    def expire(self) -> float:
        """Ends sequences that were idle for too long; says how many seconds the next has left."""
        now, left, over = self._now(), self._idle_seconds, []
        for slot in self._slots.values():
            if slot.requests:
                continue
            if (still := slot.used + self._idle_seconds - now) > 0:
                left = still
                break
            over.append(slot)
        for slot in over:
            self.drop(slot)
        return left

    async def ended(self, seconds: float) -> None:
        """Returns once no sequence is kept, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)

    def close(self) -> None:
        """Ends every sequence."""
        self._slots.clear()
        self._kept.clear()
        self._empty.set()
        if self._timer is not None:
            self._timer.cancel()

    def _enter(self, key: Key, step: SequenceStep) -> _Slot:
        if self._requests >= self._max_waiting:
            raise QueueFull(
                f"{self._requests} requests wait for their sequences' turns already; send fewer at "
                "a time, or raise the endpoint's batching.max_queue",
                waiting=self._requests,
            )
        slot = self._slots.get(key)
        if slot is not None and self._is_over(slot):
            self.drop(slot)
            slot = None
        if slot is None:
            if not step.start:
                raise _unknown(step.id)
            slot = self._begin(key)
        slot.requests += 1
        self._requests += 1
        return slot

    def _is_over(self, slot: _Slot) -> bool:
        return not slot.requests and slot.used + self._idle_seconds <= self._now()

    def _begin(self, key: Key) -> _Slot:
        owner, _ = key
        if not self._has_room(owner):
            left = self.expire()
            if not (self._has_room(owner) or self._make_room(owner)):
                raise self._too_many(owner, left)
        slot = self._slots[key] = _Slot(key, self._zeros)
        self._count(owner, 1)
        self._empty.clear()
        if self._timer is None:
            self._schedule(self._idle_seconds)
        return slot

    def _has_room(self, owner: str) -> bool:
        return len(self._slots) < self._limit and self._kept[owner] < self._share(owner)

    def _make_room(self, owner: str) -> bool:
        """Ends a sequence of who has most above a share, for an owner who has less than one.

        Returns:
            Whether one was ended; not where all those have requests under way.
        """
        share = self._share(owner)
        if self._kept[owner] >= share:
            return False
        for other, kept in self._kept.most_common():
            if kept <= share:
                break
            for slot in self._slots.values():
                if slot.key[0] == other and not slot.requests:
                    self.drop(slot)
                    return True
        return False

    def _share(self, owner: str) -> int:
        """How many the owner may keep; at least one."""
        owners = len(self._kept) + (owner not in self._kept)
        return max(1, self._limit // (owners + 1))

    def _count(self, owner: str, more: int) -> None:
        self._kept[owner] += more
        if not self._kept[owner]:
            del self._kept[owner]

    def _too_many(self, owner: str, seconds: float) -> SequencesTooMany:
        if self._kept[owner] < self._share(owner):
            what = f"{self._limit} sequences are kept for this model already"
        else:
            what = (
                f"you keep {self._kept[owner]} sequences of this model already, and your share of "
                f"{self._limit} is {self._share(owner)}, with room for other callers"
            )
        error = SequencesTooMany(
            f"{what}; end some with 'sequence_end', or raise the endpoint's "
            "sequences.max_sequences",
            limit=self._limit,
        )
        error.retry_after_seconds = min(max(seconds, 0.001), _LONGEST_RETRY_SECONDS)
        return error

    def _leave(self, slot: _Slot) -> None:
        slot.requests -= 1
        self._requests -= 1
        slot.used = self._now()
        if not (slot.begun or slot.requests):
            self.drop(slot)
        elif self._slots.get(slot.key) is slot:
            self._slots.move_to_end(slot.key)

    def _schedule(self, seconds: float) -> None:
        seconds = max(seconds, _SHORTEST_TIMER_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire_again)

    def _expire_again(self) -> None:
        self._timer = None
        left = self.expire()
        if self._slots:
            self._schedule(left)


async def _locked(lock: asyncio.Lock, seconds: float | None) -> None:
    if seconds is None or not lock.locked():
        await lock.acquire()
        return
    try:
        async with asyncio.timeout(seconds):
            await lock.acquire()
    except TimeoutError:
        raise RequestExpired(
            "the request's deadline passed while it waited for its turn in the sequence"
        ) from None


def _unknown(id_: SequenceId) -> SequenceUnknown:
    return SequenceUnknown(
        f"there is no sequence {id_!r} of yours to go on with: it was not begun at this instance, "
        "or has ended, was idle for too long, made room for another user's, or its model was "
        "replaced; begin it with 'sequence_start'",
        sequence_id=id_,
    )
