"""The deadline of the call being served, for calls made and work done on its behalf.

gRPC for Python cancels a handler when its deadline passes but hands the remaining time on to
no one; the first server interceptor sets it here and the client interceptor reads it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("lepton_deadline", default=None)


def set_remaining(seconds: float | None) -> None:
    """Gives the rest of this task ``seconds`` (None: no limit)."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def remaining() -> float | None:
    """Seconds left, 0.0 when none are; None without a deadline."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def within(timeout: float | None) -> float | None:
    """The shorter of ``timeout`` and the time left; None when neither limits."""
    left = remaining()
    if left is None:
        return timeout
    return left if timeout is None else min(timeout, left)


@contextmanager
def without_deadline() -> Iterator[None]:
    """Work inside is not bound by the deadline of the call being served."""
    token = _deadline.set(None)
    try:
        yield
    finally:
        _deadline.reset(token)
