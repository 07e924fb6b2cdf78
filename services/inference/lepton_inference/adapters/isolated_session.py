"""A model that runs in processes of its own, one for each instance, which may die of it.

A batch that crashes its process, or runs for too long, fails; the process is started anew, after a
pause that grows with how often that happened within a minute. Whatever waits for the model waits
for that, unless the pause is long.

A run that nobody waits for any more is ended as well, once it has taken as long as a new process
takes to start: who rents until the rent equals the price, and buys then, pays at most twice of what
the best choice costs (Karlin et al., "Competitive snoopy caching", 1988). It is no crash.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from lepton_inference.adapters.measurement import is_memory_error
from lepton_inference.adapters.model_messages import LoadOrder
from lepton_inference.adapters.model_process import ModelProcess, ProcessEnded
from lepton_inference.adapters.onnx_session import join
from lepton_inference.interruption import Interruption
from lepton_inference.model_errors import (
    MemoryLimit,
    ModelCrashed,
    ModelRestarting,
    RunTooLong,
    RunUnwanted,
)
from lepton_inference.signature import Tails
from lepton_inference.tensors import Column
from lepton_mesh.errors import LeptonError

log = logging.getLogger(__name__)

_RUN_SECONDS = 60.0
"""How long a batch may run where nothing is said."""
_RESTART_SECONDS = 0.5
"""What starting a process takes, before one was started anew."""
_MEMORY_SECONDS = 60.0
"""For how long a crash counts."""
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 30.0
_PATIENCE_SECONDS = 5.0
"""A batch waits for a process whose pause is no longer than this."""


class IsolatedSession:
    """One model in its processes. A Runner for the batcher.

    Args:
        order: How a process loads the model, with what is known of it.
        first: A process that has loaded it; belongs to the session from now on.
        load_seconds: How long another may take to load it.
        unwanted: Ends the starts of the others, while the session is made.

    Raises what loading it may raise, with no process left.
    """

    def __init__(
        self,
        order: LoadOrder,
        first: ModelProcess,
        load_seconds: float,
        unwanted: Interruption | None = None,
    ) -> None:
        assert order.known is not None  # noqa: S101  # for the type checker
        self.signature, self.placement = order.known
        execution = order.settings.execution
        self._run_seconds = execution.max_run_ms / 1000 or _RUN_SECONDS
        self._order = order
        self._load_seconds = load_seconds
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._processes: dict[int, ModelProcess] = {0: first}
        """By instance; those that run the model."""
        self._starting: set[ModelProcess] = set()
        self._free: SimpleQueue[int] = SimpleQueue()
        """Instances that run nothing."""
        self._crashes: deque[float] = deque()
        """When processes were lost, within the last minute; on time.monotonic()."""
        self._resting_until = 0.0
        self._restart_seconds = _RESTART_SECONDS
        """What starting a process took last."""
        try:
            self._start_others(range(1, execution.instances), unwanted or Interruption())
        except BaseException:
            self.close()
            raise
        for instance in self._processes:
            self._free.put(instance)

    @property
    def crashes_of_late(self) -> int:
        """Processes lost within the last minute."""
        return len(self._crashes)

    @property
    def pids(self) -> list[int]:
        """Its processes' ids."""
        with self._lock:
            return [process.pid for process in self._processes.values()]

    def join(
        self, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
    ) -> dict[str, np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.Runner`."""
        return join(self.signature, columns, rows, tails)

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See :meth:`run_while`, which this is for somebody who waits to the end."""
        return self.run_while(feeds, _always)

    def run_while(
        self, feeds: dict[str, np.ndarray[Any, Any]], wanted: Callable[[], bool]
    ) -> list[np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.EndableRunner`.

        Raises:
            ModelCrashed, RunTooLong, MemoryLimit: The batch did so.
            ModelRestarting: The model is not running, because it did so too often of late.
            RunUnwanted: Nobody waits for the batch.
        """
        instance = self._take(wanted)
        while self._processes[instance].ended:
            # The system ended it while it ran nothing: no request is to blame.
            log.warning(
                "a model's process ended by itself",
                extra={"model": self._order.name, "instance": instance},
            )
            self._lost(instance)
            instance = self._take(wanted)
        try:
            outputs = self._processes[instance].run(
                self.signature, feeds, self._run_seconds, wanted, self._restart_seconds
            )
        except RunUnwanted:
            log.info("a run that nobody waited for was ended", extra={"model": self._order.name})
            self._start_anew(instance, 0.0)
            raise
        except RunTooLong:
            self._lost(instance)
            raise
        except ProcessEnded as ended:
            self._lost(instance)
            if is_memory_error(RuntimeError(ended.words)):
                raise MemoryLimit("the batch needs more memory than the model may take") from None
            raise ModelCrashed(
                "the batch ended the process that the model runs in; the service's log has its "
                "last words"
            ) from None
        except BaseException:
            self._free.put(instance)
            raise
        self._free.put(instance)
        return outputs

    def close(self) -> None:
        """Ends its processes."""
        self._closed.set()
        with self._lock:
            processes = list(self._processes.values())
            self._processes.clear()
            for process in self._starting:
                process.kill()
        for process in processes:
            process.close()

    def _start_others(self, instances: Sequence[int], unwanted: Interruption) -> None:
        with contextlib.ExitStack() as stack:
            for instance in instances:
                process = self._processes[instance] = ModelProcess.start(self._order.name)
                stack.enter_context(unwanted.during(process.kill))
            # All of them are starting by now, which takes as long as loading.
            for instance in instances:
                self._processes[instance].load(
                    replace(self._order, instance=instance), self._load_seconds
                )

    def _take(self, wanted: Callable[[], bool]) -> int:
        """An instance that runs nothing; raises RunUnwanted if none came in time."""
        try:
            return self._free.get_nowait()
        except Empty:
            pause = self._resting_until - time.monotonic()
        try:
            if pause <= _PATIENCE_SECONDS:
                instance = self._free.get(timeout=self._load_seconds)
                if wanted():
                    return instance
                self._free.put(instance)
                raise RunUnwanted
        except Empty:
            pause = _PATIENCE_SECONDS
        error = ModelRestarting(
            "the model ended its process too often of late, and is started again in "
            f"{pause:.0f} s; the service's log has its last words"
        )
        error.retry_after_seconds = pause
        raise error

    def _lost(self, instance: int) -> None:
        """Starts anew the process of an instance, which crashed."""
        self._start_anew(instance, self._pause())

    def _start_anew(self, instance: int, pause: float) -> None:
        """Replaces the process of an instance after a pause, in the background."""
        with self._lock:
            process = self._processes.pop(instance, None)
        if process is not None:
            process.close()
        threading.Thread(
            target=self._restart, args=(instance, pause), name="restart-model", daemon=True
        ).start()

    def _restart(self, instance: int, pause: float) -> None:
        while not self._closed.wait(pause):
            began = time.monotonic()
            try:
                process = ModelProcess.start(self._order.name)
            except OSError as error:  # no memory, no process or no descriptor is left for it
                log.warning(
                    "a model's process does not start",
                    extra={"model": self._order.name, "detail": str(error)},
                )
                pause = self._pause()
                continue
            with self._lock:
                self._starting.add(process)
                if self._closed.is_set():
                    process.kill()
            loaded = self._load(process, instance)
            with self._lock:
                self._starting.discard(process)
                if loaded and not self._closed.is_set():
                    self._processes[instance] = process
                    self._restart_seconds = time.monotonic() - began
                    self._free.put(instance)
                    return
            process.close()
            pause = self._pause()

    def _load(self, process: ModelProcess, instance: int) -> bool:
        try:
            process.load(replace(self._order, instance=instance), self._load_seconds)
        except LeptonError as error:
            if not self._closed.is_set():
                log.warning(
                    "a model does not start again",
                    extra={
                        "model": self._order.name,
                        "reason": error.reason,
                        "detail": error.message,
                    },
                )
            return False
        return True

    def _pause(self) -> float:
        """Seconds to wait after one more crash."""
        now = time.monotonic()
        with self._lock:
            while self._crashes and self._crashes[0] < now - _MEMORY_SECONDS:
                self._crashes.popleft()
            before = len(self._crashes)
            self._crashes.append(now)
            pause = 0.0
            if before:
                pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** (before - 1), _LONGEST_PAUSE_SECONDS)
            self._resting_until = max(self._resting_until, now + pause)
        return pause


def _always() -> bool:
    return True
