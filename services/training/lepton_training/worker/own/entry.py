"""Entry point of the process that a user's code runs in.

``python -P -m lepton_training.worker.own.entry REQUEST.json DESCRIPTOR``, by the interpreter of the
code's environment, and confined (:mod:`confinement`) before that interpreter starts. It has no
certificate and no token: it reads the dataset's files and the code, writes below its own folder,
and tells the platform's process through the descriptor how it goes.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lepton_mesh.errors import LeptonError
from lepton_training.failure import UNEXPECTED, describe_failure
from lepton_training.spec import JobSpec, parse_spec
from lepton_training.worker.own.errors import CodeFunctionInvalid
from lepton_training.worker.own.messages import Messages

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_TEXT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """What the platform's process says in ``REQUEST.json``."""

    spec: dict[str, Any]
    cpus: int
    data: str
    """Folder with the dataset's files."""
    code: str
    """Folder with the code."""
    directory: str
    """Folder that the code may write in; its results too."""
    parent: int
    """The platform's process."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def main() -> int:
    """Runs the code; returns the exit status."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    messages = Messages(int(sys.argv[2]))
    _die_with(request.parent)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.captureWarnings(True)
    code = Path(request.code)
    try:
        _do(request, messages)
    except SystemExit as error:
        if messages.ours:
            _tell(error, code)
            messages.send(
                "failed",
                reason="CODE_EXITED",
                message=f"the code called sys.exit({error.code!r}) before it was done"
                + _where(error, code),
            )
        return 1
    except BaseException as error:  # whatever it is, the job must have a reason
        if messages.ours:
            reason, message = _described(error, code)
            messages.send("failed", reason=reason, message=message)
        return 1
    messages.send("finished")
    return 0


def _do(request: Request, messages: Messages) -> None:
    # Both load what only this process needs, and are told what goes wrong in it.
    from lepton_training.worker.own.training import train_module, train_own  # noqa: PLC0415 - see above

    spec = parse_spec(request.spec, cores=request.cpus)
    ForkingPickler.register(torch.UntypedStorage, _by_value)
    torch.set_num_threads(request.cpus)
    torch.use_deterministic_algorithms(spec.deterministic)
    random.seed(spec.seed)
    np.random.seed(spec.seed % (1 << 32))  # users' code may draw from it
    torch.manual_seed(spec.seed)
    train = train_module if spec.code is not None and spec.code.module else train_own
    train(
        spec,
        lambda: _function(spec, Path(request.code)),
        data=Path(request.data),
        directory=Path(request.directory),
        cpus=request.cpus,
        messages=messages,
    )


def _by_value(storage: torch.UntypedStorage) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Sends tensors from process to process, such as a loader's, through their pipes.

    PyTorch would hand over descriptors of shared memory, through Unix sockets, which are closed.
    """
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return _storage, (flat.numpy().tobytes(),)


def _storage(content: bytes) -> torch.UntypedStorage:
    flat = np.frombuffer(bytearray(content), np.uint8)
    return torch.from_numpy(flat).untyped_storage()


def _function(spec: JobSpec, code: Path) -> Callable[..., Any]:
    """The function that the spec names, imported."""
    assert spec.code is not None  # noqa: S101 - otherwise this process is not started
    module, _, name = spec.code.function.partition(":")
    sys.path.insert(0, str(code))
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # of something that the module needs
        files = sorted(path.relative_to(code).as_posix() for path in code.rglob("*.py"))
        raise CodeFunctionInvalid(
            f"there is no module '{error.name}' in the code, which has {', '.join(files[:10])}"
        ) from None
    if not callable(found):
        raise CodeFunctionInvalid(f"{module} has no function '{name}'")
    return found  # type: ignore[no-any-return]  # anything callable


def _described(error: BaseException, code: Path) -> tuple[str, str]:
    """Reason and message; the traceback is in the log then."""
    where = _where(error, code)
    if isinstance(error, LeptonError):
        if where:
            _tell(error, code)
        log.error("%s: %s", error.reason, error.message)
        return error.reason, error.message + where
    _tell(error, code)
    try:
        (reason, message), text = describe_failure(error), str(error)[:_TEXT_MAX]
    except Exception:  # a user's own class
        reason, message, text = UNEXPECTED, "", "(its text cannot be had)"
    if reason != UNEXPECTED:
        return reason, message + where
    return "CODE_FAILED", f"{type(error).__name__}: {text}" + where


def _tell(error: BaseException, code: Path) -> None:
    """Writes the traceback from the user's first frame on."""
    trace = error.__traceback__
    while trace is not None and not _inside(trace.tb_frame.f_code.co_filename, code):
        trace = trace.tb_next
    try:
        traceback.print_exception(type(error), error, trace or error.__traceback__)
    except Exception:  # as above
        traceback.print_tb(trace)
    sys.stderr.flush()


def _where(error: BaseException, code: Path) -> str:
    """The user's line that it comes from, in brackets; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename and _inside(error.filename, code):
        return f" ({Path(error.filename).relative_to(code)}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if _inside(frame.filename, code)
    ]
    if not frames:
        return ""
    last = frames[-1]
    return f" ({Path(last.filename).relative_to(code)}:{last.lineno}, in {last.name})"


def _inside(filename: str, code: Path) -> bool:
    return Path(filename).is_relative_to(code)


def _die_with(parent: int) -> None:
    """Makes the kernel end this process with the platform's (prctl(2))."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
