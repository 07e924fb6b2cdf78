"""A process that runs a model: started, asked, and never left behind."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from lepton_inference.adapters import model_messages as messages
from lepton_inference.model_errors import ModelCrashed, ModelDoesNotFit, ModelTimeout
from lepton_inference.settings import ModelSettings
from lepton_mesh.errors import Internal

log = logging.getLogger(__name__)

_TAIL = 2000
"""Bytes of what a process said last that the log keeps."""
_OURS = ("LEPTON_", "PYTHONHOME", "LD_PRELOAD")
"""Of the environment: secrets, and what Envoy needs to have Python inside."""


class ModelProcess:
    """One process, for one model. Not for two threads at a time.

    Args:
        process: The process.
        connection: To it.
        said: A file with what it wrote to its standard error.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, said: int
    ) -> None:
        self._process = process
        self._connection = connection
        self._said = said

    @classmethod
    def start(cls) -> ModelProcess:
        """Starts one that waits for its order."""
        ours, theirs = socket.socketpair()
        said = os.memfd_create("model-stderr")
        with theirs:
            process = subprocess.Popen(
                [
                    _python(),
                    "-P",  # not whatever lies in the directory that this is run in
                    "-X",
                    "faulthandler",
                    "-m",
                    "lepton_inference.adapters.model_worker",
                    str(theirs.fileno()),
                ],
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith(_OURS)},
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                },
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(theirs.fileno(),),
                # A terminal's Ctrl-C is for the parent.
                start_new_session=True,
            )
        return cls(process, ours, said)

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

    def load(self, path: Path, settings: ModelSettings, seconds: float) -> messages.Found:
        """Has the model checked, loaded and measured.

        Raises:
            ModelInvalid, ModelDoesNotFit, ProviderMissing: What the process found.
            ModelTimeout: It took longer than ``seconds``.
            ModelCrashed: The process ended of it.
        """
        order = messages.LoadOrder(path, settings)
        try:
            return messages.found_of(self._ask(order.dump(), seconds))
        except TimeoutError:
            raise ModelTimeout(
                f"the model was not ready after {seconds:g} s: it is too large to load, or a "
                "run on a sample does not end"
            ) from None
        except (EOFError, OSError):
            status = self._end()
        if status == -signal.SIGKILL:
            raise ModelDoesNotFit(
                "the system killed the process that loaded the model: mostly, memory ran out"
            )
        raise ModelCrashed(
            f"loading the model ended the process that tried it ({_name(status)}); the service's "
            "log has its last words"
        )

    def close(self) -> None:
        """Ends the process and gives everything back."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
        if self._said >= 0:
            os.close(self._said)
            self._said = -1

    def _ask(self, frame: bytes, seconds: float) -> dict[str, Any]:
        self._connection.settimeout(seconds)
        messages.send(self._connection, frame)
        try:
            return messages.answer_of(messages.receive(self._connection))
        except Internal:
            self._log_last_words()
            raise

    def _end(self) -> int:
        """The status of a process that does not answer any more, ended if it has not yet."""
        self._connection.close()  # ends it
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._log_last_words()
        return status

    def _log_last_words(self) -> None:
        size = os.fstat(self._said).st_size
        words = os.pread(self._said, _TAIL, max(0, size - _TAIL)).decode(errors="replace")
        log.warning("a model's process failed", extra={"pid": self.pid, "last_words": words})


def _python() -> str:
    """The interpreter; inside of Envoy, ``sys.executable`` is not one."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in (version, "python3"):
        candidate = Path(sys.prefix, "bin", name)
        if candidate.exists():
            return str(candidate)
    return sys.executable


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
