"""A process that runs a model: started, asked, and never left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lepton_inference.adapters import model_messages as messages
from lepton_inference.adapters.tensor_memory import TensorMemory
from lepton_inference.model_errors import (
    ModelCrashed,
    ModelDoesNotFit,
    ModelTimeout,
    RunTooLong,
    RunUnwanted,
)
from lepton_inference.signature import Signature
from lepton_mesh.errors import Internal

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.02
"""How often a long run is looked after."""
_TAIL = 2000
"""Bytes of what a process said last that the log keeps."""
_REFUSED_MEMORY = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS})
"""How a process ends whose memory is bounded, where its libraries do not survive a refusal."""
_OURS = ("LEPTON_", "PYTHONHOME", "LD_PRELOAD")
"""Of the environment: secrets, and what Envoy needs to have Python inside."""


class ProcessEnded(Exception):
    """The process is gone."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"the model's process ended: {_name(status)}")
        self.status = status
        self.words = words
        """What it wrote last."""


class ModelProcess:
    """One process, for one model. Not for two threads at a time.

    Args:
        process: The process itself.
        connection: To it.
        tensors: Memory for inputs, which it reads, and for outputs, which it writes.
        said: A file with what it wrote to its standard error.
        name: Whose model it is, for the log.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        connection: socket.socket,
        tensors: tuple[TensorMemory, TensorMemory],
        said: int,
        name: str,
    ) -> None:
        self._process = process
        self._connection = connection
        self._answers = select.poll()
        self._answers.register(connection, select.POLLIN)
        self._inputs, self._outputs = tensors
        self._fresh: tuple[int, ...] = ()
        """Descriptors of memory that the process is to go over to, and has not heard of yet."""
        self._said = said
        self._name = name
        self._closed = False

    @classmethod
    def start(cls, name: str = "") -> ModelProcess:
        """Starts one that waits for its order.

        Args:
            name: Whose model it is, for the log and for those who list processes.

        Raises OSError where there is no memory, process or descriptor for it; leaves none then.
        """
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            with theirs:
                inputs, outputs = _new_memory()
                stack.callback(inputs.close)
                stack.callback(outputs.close)
                said = os.memfd_create("model-stderr")
                stack.callback(os.close, said)
                descriptors = theirs.fileno(), inputs.descriptor, outputs.descriptor
                process = _popen(descriptors, said, name)
            stack.pop_all()  # the process' from now on
        return cls(process, ours, (inputs, outputs), said, name)

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def load(self, order: messages.LoadOrder, seconds: float) -> messages.Found:
        """Has the model loaded; checked and measured too where nothing is known of it.

        Raises:
            ModelInvalid, ModelDoesNotFit, ProviderMissing: What the process found.
            ModelTimeout: It took longer than ``seconds``.
            ModelCrashed: The process ended of it.
        """
        try:
            return messages.found_of(self._ask(order.dump(), seconds))
        except TimeoutError:
            raise ModelTimeout(
                f"the model was not ready after {seconds:g} s: it is too large to load, or a "
                "run on a sample does not end"
            ) from None
        except (EOFError, OSError):
            status = self._end().status
        if status == -signal.SIGKILL:
            raise ModelDoesNotFit(
                "the system killed the process that loaded the model: mostly, memory ran out"
            )
        limit = order.settings.execution.memory_limit_mib
        if limit and status in _REFUSED_MEMORY:
            raise ModelDoesNotFit(
                f"loading the model ended its process ({_name(status)}): mostly it needs more than "
                f"execution.memory_limit_mib, {limit} MiB; a model that ends so without a limit "
                "too is broken",
                memory_limit_mib=limit,
            )
        raise ModelCrashed(
            f"loading the model ended its process ({_name(status)}); the service's "
            "log has its last words"
        )

    def run(
        self,
        signature: Signature,
        feeds: Mapping[str, np.ndarray[Any, Any]],
        seconds: float,
        wanted: Callable[[], bool],
        patience: float,
    ) -> list[np.ndarray[Any, Any]]:
        """Runs a batch of the model that was loaded.

        Args:
            signature: The model's.
            feeds: Its inputs by name.
            seconds: How long it may take.
            wanted: Whether anybody waits for it; not asked before it has taken ``patience``.
            patience: Seconds.

        Raises:
            RunUnwanted: Nobody waits for it; the process does not live.
            InputRefused: A node does not take what it was given; the process lives.
            MemoryLimit: It needs more memory than the process may take; the process lives.
            RuntimeError: The model failed on it, in ONNX Runtime's words; the process lives.
            RunTooLong: It took longer than ``seconds``; the process does not live.
            ProcessEnded: The process ended of it.
        """
        arrays = [feeds[spec.name] for spec in signature.inputs]
        self._renew_memory()
        frame = messages.tensors_frame(self._inputs.write(arrays, signature.inputs))
        fresh, self._fresh = self._fresh, ()
        try:
            answer = self._ask(frame, seconds, wanted, patience, fresh)
            if "failed" in answer:
                raise RuntimeError(str(answer["failed"]))
            return self._outputs.read(answer["tensors"], signature.outputs, copy=True)
        except TimeoutError:
            self._process.kill()
            raise RunTooLong(
                f"the batch ran for longer than {seconds:g} s and was ended; send less at a time, "
                "or raise the endpoint's execution.max_run_ms",
                seconds=seconds,
            ) from None
        # The last three for an answer that makes no sense.
        except (EOFError, OSError, KeyError, TypeError, ValueError):
            raise self._end() from None

    def kill(self) -> None:
        """Ends the process; who waits for its answer hears of it, and closes it."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process and gives everything back."""
        if self._closed:
            return
        self._closed = True
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._inputs.close()
        self._outputs.close()
        os.close(self._said)

    def _ask(
        self,
        frame: bytes,
        seconds: float,
        wanted: Callable[[], bool] | None = None,
        patience: float = 0.0,
        descriptors: Sequence[int] = (),
    ) -> dict[str, Any]:
        self._connection.settimeout(seconds)
        messages.send(self._connection, frame, descriptors)
        if wanted is not None:
            self._look_after(seconds, wanted, patience)
        try:
            return messages.answer_of(messages.receive(self._connection))
        except Internal:
            self._log_last_words("could not load its model")
            raise

    def _renew_memory(self) -> None:
        """Puts other memory in the place of what has become too large."""
        if not (self._inputs.spare or self._outputs.spare):
            return
        try:
            fresh = _new_memory()
        except OSError:  # no descriptor is left for it now: what is there is good enough
            return
        self._inputs.close()
        self._outputs.close()
        self._inputs, self._outputs = fresh
        self._fresh = self._inputs.descriptor, self._outputs.descriptor

    def _look_after(self, seconds: float, wanted: Callable[[], bool], patience: float) -> None:
        """Returns once there is an answer, or the process is gone."""
        deadline = time.monotonic() + seconds
        pause = min(patience, seconds)
        while not self._answers.poll(pause * 1000):
            if not wanted():
                self._process.kill()
                raise RunUnwanted
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            pause = min(left, _LOOK_SECONDS)

    def _end(self) -> ProcessEnded:
        """How a process ended that does not answer any more."""
        self._connection.close()  # ends it
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return ProcessEnded(status, self._log_last_words(_end_of(status)))

    def _log_last_words(self, what: str) -> str:
        """Logs ``what`` became of the process, and returns what it wrote last."""
        size = os.fstat(self._said).st_size
        words = os.pread(self._said, _TAIL, max(0, size - _TAIL)).decode(errors="replace")
        log.warning(
            "a model's process failed",
            extra={
                "model": self._name,
                "pid": self.pid,
                "detail": what,
                "last_words": words,
            },
        )
        return words


def _new_memory() -> tuple[TensorMemory, TensorMemory]:
    """For inputs and for outputs; raises OSError."""
    inputs = TensorMemory.create("model-inputs")
    try:
        return inputs, TensorMemory.create("model-outputs")
    except BaseException:
        inputs.close()
        raise


def _popen(descriptors: tuple[int, int, int], said: int, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            _python(),
            "-P",  # not whatever lies in the directory that this is run in
            "-X",
            "faulthandler",
            "-m",
            "lepton_inference.adapters.model_worker",
            *map(str, descriptors),
            name,
        ],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(_OURS)},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        pass_fds=descriptors,
        # A terminal's Ctrl-C is for the parent.
        start_new_session=True,
    )


def _python() -> str:
    """The interpreter; inside of Envoy, ``sys.executable`` is not one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in (version, "python3"):
        candidate = Path(sys.prefix, "bin", name)
        if candidate.exists():
            return str(candidate)
    return sys.executable


def _end_of(status: int) -> str:
    """How a process of that status ended, for the log."""
    if status == -signal.SIGKILL:
        return "killed by SIGKILL: mostly the kernel does so when the machine's memory runs out"
    return f"killed by {_name(status)}" if status < 0 else f"exited with {_name(status)}"


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
