"""Answers kept by what was asked, so that an equal request costs no compute.

The key is a digest of the input tensors with their shapes; the version and how it is served are
those of the model that the cache belongs to and goes with. An answer is kept with all of the
model's outputs, so that it serves whichever of them the next request wants. What was used
longest ago makes room. A request that equals one which runs already waits for its answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import numpy as np

from lepton_inference.batch import Batch, Outcome
from lepton_inference.batch_queue import RequestExpired
from lepton_inference.signature import Checked
from lepton_inference.statistics import Statistics
from lepton_inference.tensors import encode_bytes

_ENTRY_BYTES = 1024
"""What an entry takes besides its tensors, generously."""
_HASH_INLINE_BYTES = 1 << 18
"""Beyond, hashing would hold the event loop for longer than handing it to a thread takes."""

Submit = Callable[[], asyncio.Future[Outcome]]
Wait = Callable[[asyncio.Future[None]], Awaitable[None]]


class ResponseCache:
    """The kept answers of one loaded model. Lives on one event loop.

    Args:
        limit_bytes: The most that all answers take together.
        statistics: Where hits and misses are counted.
    """

    def __init__(self, limit_bytes: int, statistics: Statistics) -> None:
        self._limit = limit_bytes
        self._statistics = statistics
        self._kept: OrderedDict[bytes, tuple[Batch, int]] = OrderedDict()
        """Answers and their bytes, the one that was used last at the end."""
        self._flights: dict[bytes, asyncio.Future[Outcome]] = {}
        """What is being computed."""
        self.bytes = 0
        """What the answers take now."""

    async def outcome(
        self, checked: Checked, submit: Submit, seconds: float | None, wait: Wait
    ) -> asyncio.Future[Outcome] | Outcome:
        """The kept answer, or the future of the one that ``submit`` has begun to compute.

        Args:
            checked: The request.
            submit: Computes it; called at most once, if there is no answer.
            seconds: How long it may wait for an equal request's answer; None for no bound.
            wait: Awaits a future for as long as the caller is there.

        Raises:
            RequestExpired: An equal request's answer did not come in time.
        """
        started = time.perf_counter_ns()
        size = sum(len(column) for column in checked.columns)
        key = _key(checked) if size < _HASH_INLINE_BYTES else await asyncio.to_thread(_key, checked)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            return self._hit(started, (kept[0], 0))
        flight = self._flights.get(key)
        if flight is not None:
            await self._landing(flight, seconds, wait)
            # What an equal request failed on may have been its own: a deadline, a lost caller.
            if not flight.cancelled() and flight.exception() is None:
                return self._hit(started, flight.result())
        looked_up_ns = time.perf_counter_ns() - started
        future = submit()
        self._flights[key] = future
        future.add_done_callback(partial(self._landed, key, checked.rows, looked_up_ns))
        return future

    def _hit(self, started_ns: int, outcome: Outcome) -> Outcome:
        taken = time.perf_counter_ns() - started_ns
        self._statistics.cache_hit.add(taken)
        self._statistics.success.add(taken)
        return outcome

    async def _landing(
        self, flight: asyncio.Future[Outcome], seconds: float | None, wait: Wait
    ) -> None:
        """Returns once ``flight`` is done, however; giving up does not cancel it."""
        landed: asyncio.Future[None] = flight.get_loop().create_future()

        def tell(_: asyncio.Future[Outcome]) -> None:
            if not landed.done():
                landed.set_result(None)

        flight.add_done_callback(tell)
        try:
            async with asyncio.timeout(seconds):
                await wait(landed)
        except TimeoutError:
            self._statistics.fail(RequestExpired.reason)
            raise RequestExpired(
                "the request's deadline passed while it waited for the answer to an equal one"
            ) from None

    def _landed(
        self, key: bytes, rows: int, looked_up_ns: int, future: asyncio.Future[Outcome]
    ) -> None:
        if self._flights.get(key) is future:
            del self._flights[key]
        started = time.perf_counter_ns()
        if not future.cancelled() and future.exception() is None:
            self._keep(key, rows, future.result())
        self._statistics.cache_miss.add(looked_up_ns + time.perf_counter_ns() - started)

    def _keep(self, key: bytes, rows: int, outcome: Outcome) -> None:
        batch, first = outcome
        own = [array[first : first + rows] if batch.batched else array for array in batch.arrays]
        size = _ENTRY_BYTES + sum(_size(array) for array in own)
        if size > self._limit or key in self._kept:
            return
        while self.bytes + size > self._limit:
            self.bytes -= self._kept.popitem(last=False)[1][1]
        # Copied: a view would keep the whole batch, or the runtime's own memory.
        kept = Batch([array.copy() for array in own], rows, batch.batched)
        self._kept[key] = kept, size
        self.bytes += size


def _key(checked: Checked) -> bytes:
    """Equal for equal inputs only: shapes say how long each raw tensor is, and each text its own
    length."""
    digest = hashlib.blake2b(repr((checked.rows, checked.tails)).encode(), digest_size=32)
    for column in checked.columns:
        digest.update(encode_bytes(column) if isinstance(column, np.ndarray) else column)
    return digest.digest()


def _size(array: np.ndarray[Any, Any]) -> int:
    if array.dtype != object:
        return array.nbytes
    return array.nbytes + sum(sys.getsizeof(element) for element in array.reshape(-1))
