"""The process that writes the trained model as ONNX, forked from the job's own at its start.

A process of its own because repeated or concurrent exports in one process fail; forked because
that gives it PyTorch for nothing, where a new interpreter needs two seconds of CPU time to load
it, after the last step and while somebody waits.
"""

from __future__ import annotations

import importlib
import multiprocessing
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import torch

_LOADED_LATE = (
    "onnxscript.function_libs.torch_lib.ops",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
)
"""What ``torch.onnx.export`` loads at its first call, which takes three seconds. Where a version
of PyTorch has none of these it still does."""
_context = multiprocessing.get_context("fork")


def load() -> None:
    """Loads into this process what an export needs."""
    importlib.import_module("lepton_training.worker.export")
    for name in _LOADED_LATE:
        with suppress(ImportError):
            importlib.import_module(name)


class Exporter:
    """Waits for one request; ends with the process that forked it."""

    def __init__(self, process: multiprocessing.context.ForkProcess, sender: Connection) -> None:
        self._process = process
        self._sender = sender

    @classmethod
    def fork(cls) -> Self:
        """Forks it.

        To be called before this process has threads: locks that another one holds would stay
        locked in the fork for good, and PyTorch's and gRPC's threads would be missing there.
        """
        commands, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=_serve, args=(commands, sender), daemon=True)
        process.start()
        commands.close()
        return cls(process, sender)

    def load(self) -> None:
        """Lets it load what it needs, while this process does something else."""
        self._send(None)

    def begin(self, request: Path, *, threads: int) -> None:
        """Lets it export as the :class:`ExportRequest` in the file ``request`` says."""
        self._send((request, threads))

    def wait(self) -> int:
        """Waits for its end; returns its exit status, negative for a signal."""
        self._process.join()
        status = self._process.exitcode
        assert status is not None  # noqa: S101 - it was joined
        return status

    def close(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._sender.close()

    def _send(self, command: tuple[Path, int] | None) -> None:
        # Where it died, its exit status says so once somebody waits for it.
        with suppress(BrokenPipeError):
            self._sender.send(command)


def _serve(commands: Connection, sender: Connection) -> None:
    """Does what is asked, in the fork."""
    sender.close()  # while it is open here, the other process's end would go unnoticed
    command: tuple[Path, int] | None = None
    while command is None:
        try:
            command = commands.recv()
        except EOFError:
            return
        load()
    from lepton_training.worker.export import export_as_asked  # noqa: PLC0415 - loaded just now

    request, threads = command
    torch.set_num_threads(threads)
    export_as_asked(request)
