"""Ends runs of ONNX Runtime that nobody waits for any more, between two of the model's nodes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import onnxruntime as ort

_LOOK_SECONDS = 0.02
_LINGER_SECONDS = 1.0
"""Without a run, until the thread ends; the next run starts another."""


class RunWatch:
    """Looks after the runs of one session, on a thread that is there while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[ort.RunOptions, Callable[[], bool]] = {}
        self._looking = False

    @contextlib.contextmanager
    def during(self, wanted: Callable[[], bool]) -> Iterator[ort.RunOptions]:
        """Options for a run inside of the block, which ends once ``wanted`` says no.

        ``wanted`` is asked on the watch's own thread.
        """
        options = ort.RunOptions()
        with self._lock:
            self._runs[options] = wanted
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="watch-runs", daemon=True).start()
        try:
            yield options
        finally:
            with self._lock:
                del self._runs[options]

    def _look(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                runs = list(self._runs.items())
                if runs:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _LINGER_SECONDS:
                    self._looking = False
                    return
            for options, wanted in runs:
                if not wanted():
                    options.terminate = True
