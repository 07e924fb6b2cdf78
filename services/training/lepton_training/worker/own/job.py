"""A job with a user's own code, from its request to its registered model: the platform's side.

This process has the job's certificate and token. The code runs in a process below it, which has
neither: it gets files, and gives back a graph that is judged in a third.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_training.events import EventWriter
from lepton_training.failure import ToldFailure
from lepton_training.job import EPOCHS_MAX, METRICS_MAX, Phase
from lepton_training.job_files import OWN_DIRECTORY, read_request, remove
from lepton_training.own_code import Code
from lepton_training.process import MARK
from lepton_training.spec import JobSpec, parse_spec
from lepton_training.worker.checkpoint_keeper import CheckpointKeeper
from lepton_training.worker.code_version import code_version
from lepton_training.worker.own.archive import unpack
from lepton_training.worker.own.confinement import confined_command, landlock_version
from lepton_training.worker.own.environments import Environments
from lepton_training.worker.own.errors import CodeModelInvalid, CodeUnconfined, MetricsInvalid
from lepton_training.worker.own.program import Program, Stopping, become_subreaper
from lepton_training.worker.phases import enter
from lepton_training.worker.platform import Platform, Publication, TensorSpec

log = logging.getLogger(__name__)

_BEGIN = {
    Phase.PREPARING: 0.0,
    Phase.TRAINING: 0.03,
    Phase.EXPORTING: 0.9,
    Phase.EVALUATING: 0.94,
    Phase.REGISTERING: 0.98,
}
"""Progress of the whole job where each phase begins."""
_REASONS = frozenset(
    {
        "CODE_EXITED",
        "CODE_FAILED",
        "CODE_FUNCTION_INVALID",
        "CODE_MODEL_INVALID",
        "CODE_NO_MODEL",
        "DISK_FULL",
        "JOB_SPEC_INVALID",
        "LOSS_NOT_FINITE",
        "METRICS_INVALID",
        "OUT_OF_MEMORY",
        "TRAINING_DATA_INVALID",
        "TRAINING_ROWS_INVALID",
    }
)
"""What the code's process may say that it failed with."""
_INHERITED = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "_LEPTON_STACK",
    MARK,
)
"""What the code's process sees of this one's environment; no address, no token of Lepton's."""
_REPORT_SECONDS = 0.25
_NUMBER_MAX = 1 << 53
_METRIC = re.compile(r"[A-Za-z_][\w./-]{0,63}", re.ASCII)


def check_confinement(*, allow_unconfined: bool) -> None:
    """Raises CodeUnconfined where this machine cannot keep code from others' files."""
    if landlock_version() < 1 and not allow_unconfined:
        raise CodeUnconfined(
            "this machine's kernel has no Landlock (Linux 5.13, turned on), so code could read "
            "every file of the training service's user; run the job on another machine, or set "
            "LEPTON_ALLOW_UNCONFINED_CODE=true for the service where all who run code are trusted"
        )


def run(
    directory: Path,
    platform: Platform,
    events: EventWriter,
    keeper: CheckpointKeeper,
    environments: Environments,
) -> tuple[str, dict[str, float]]:
    """Does the job in ``directory``.

    Whether code may run here at all is asked of :func:`check_confinement` before.

    Returns:
        The version that it registered, and its metrics.

    Raises:
        LeptonError, ToldFailure: With the reason that the job fails with.
    """
    request = read_request(directory)
    spec = parse_spec(request["spec"], cores=request["cpus"])
    code = spec.code
    assert code is not None  # noqa: S101 - other jobs are run by the pipeline
    enter(events, Phase.PREPARING, _BEGIN)
    platform.fetch_dataset(spec.dataset, directory / "data")
    platform.fetch_artifact(code.artifact, code.sha256, directory / "code.zip")
    unpack(directory / "code.zip", directory / "code")
    keeper.restore()
    become_subreaper()
    with environments.python(spec.requirements) as python:
        enter(events, Phase.TRAINING, _BEGIN)
        _run_code(
            directory=directory,
            request=request,
            spec=spec,
            code=code,
            python=python,
            reports=Reports(events),
            keeper=keeper,
        )
    enter(events, Phase.EVALUATING, _BEGIN)
    verified = _verify(directory)
    parity: dict[str, Any] = json.loads((directory / "parity.json").read_text())
    metrics = verified["metrics"] | {"parity_max_abs_error": float(parity["max_abs_error"])}
    log.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    enter(events, Phase.REGISTERING, _BEGIN)
    registered = platform.publish(
        _publication(
            directory=directory,
            request=request,
            spec=spec,
            code=code,
            verified=verified,
            parity=parity,
            metrics=metrics,
        )
    )
    log.info("registered %s", registered)
    return registered, metrics


def _run_code(
    *,
    directory: Path,
    request: Mapping[str, Any],
    spec: JobSpec,
    code: Code,
    python: Path,
    reports: Reports,
    keeper: CheckpointKeeper,
) -> None:
    own = directory / OWN_DIRECTORY
    own.mkdir(mode=0o700, exist_ok=True)
    own.chmod(0o700)  # an earlier attempt's code may have closed it
    temporary = own / "tmp"
    remove(temporary)
    temporary.mkdir()
    asked = directory / "own.json"
    asked.write_text(
        json.dumps(
            {
                "spec": request["spec"],
                "cpus": request["cpus"],
                "data": str(directory / "data"),
                "code": str(directory / "code"),
                "directory": str(own),
                "parent": os.getpid(),
            }
        )
    )
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {
        "HOME": str(own),
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": str(spec.seed % (1 << 32)),
    }
    program = Program(reports.take, processes_max=code.processes, reasons=_REASONS)
    command = confined_command(
        # Without -P the interpreter would look for modules in ``own`` first.
        [str(python), "-P", "-m", "lepton_training.worker.own.entry", str(asked)],
        readable=[
            *_packages(directory, python),
            *(directory / one for one in ("data", "code")),
            asked,
        ],
        writable=[own],
    )
    try:
        program.run(command, own, environment)
    except Stopping:
        log.info("told to stop")
        keeper.close(last=True)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # so that the status says what ended the process
        raise
    finally:
        reports.flush()


def _packages(directory: Path, python: Path) -> list[Path]:
    """Where ``python`` and this interpreter, whose packages it has too, find what they import."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    named = (*sys.path, sys.prefix, sys.base_prefix, *libraries)
    found = [Path(path) for path in named if path]
    found += [python.parent.parent, Path(sys.executable).resolve().parent]
    # This process was started in the job's folder, which so is among those of its modules.
    return [path for path in found if not directory.is_relative_to(path)]


class Reports:
    """Turns what the code reports into the job's events: checked, and not too many."""

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self._waiting: dict[str, Any] | None = None
        self._written = 0.0
        self._ends = 0
        self._names: set[str] = set()
        """Of its metrics."""
        self._exporting = False
        self._epoch_began = time.monotonic()

    def take(self, message: Mapping[str, Any]) -> None:
        """Takes one message.

        Raises:
            MetricsInvalid: It says what is no measurement.
        """
        if message["kind"] == "exporting" and not self._exporting:
            self._exporting = True
            self.flush()
            enter(self._events, Phase.EXPORTING, _BEGIN)
            return
        if message["kind"] != "measurement":
            raise MetricsInvalid("the code reported what is no message of Lepton's")
        measurement = self._checked(message)
        self._waiting = measurement
        due = time.monotonic() - self._written >= _REPORT_SECONDS
        if due or measurement["epoch_end"]:
            self.flush()

    def flush(self) -> None:
        """Writes the last one that waits."""
        if self._waiting is not None:
            self._events.write("measurement", **self._waiting)
            self._waiting, self._written = None, time.monotonic()

    def _checked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        step, epoch, epochs = (_count(message, name) for name in ("step", "epoch", "epochs"))
        # Of very many, the later ones are told like any other report.
        end = message.get("epoch_end") is True and epoch > 0 and self._ends < EPOCHS_MAX
        now = time.monotonic()
        seconds = _finite(message.get("epoch_seconds"))
        if end:
            self._ends += 1
            if seconds is None:
                seconds = now - self._epoch_began
            self._epoch_began = now
        metrics = _metrics(message)
        self._names |= metrics.keys()
        if len(self._names) > METRICS_MAX:
            raise MetricsInvalid(f"the code reported more than {METRICS_MAX} different metrics")
        begin, after = _BEGIN[Phase.TRAINING], _BEGIN[Phase.EXPORTING]
        return {
            "step": step,
            "epoch": epoch,
            "epochs": max(epochs, epoch),
            "progress": begin + (after - begin) * _fraction(message),
            "metrics": metrics,
            "epoch_end": end,
            "epoch_seconds": seconds if end else 0.0,
        }


def _count(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _NUMBER_MAX:
        raise MetricsInvalid(
            f"the code reported {name} {_shown(value)}; it is a whole number from 0 on"
        )
    return value


def _fraction(message: Mapping[str, Any]) -> float:
    value = message.get("progress")
    number = _finite(value)
    if number is None:
        raise MetricsInvalid(
            f"the code reported progress {_shown(value)}; it is a number from 0 to 1"
        )
    return min(max(number, 0.0), 1.0)


def _metrics(message: Mapping[str, Any]) -> dict[str, float]:
    values = message.get("metrics")
    if not isinstance(values, dict) or len(values) > METRICS_MAX:
        raise MetricsInvalid(f"the code reported more than {METRICS_MAX} metrics at once")
    metrics = {}
    for name, value in values.items():
        if not _METRIC.fullmatch(name):
            raise MetricsInvalid(
                f"the code reported a metric {_shown(name)}; names have letters, digits, '_', '.', "
                "'/' and '-', 64 at most"
            )
        number = _finite(value)
        if number is None:
            raise MetricsInvalid(
                f"the code reported the metric '{name}' as {_shown(value)}; it must be a finite "
                "number"
            )
        metrics[name] = number
    return metrics


def _finite(value: object) -> float | None:
    """A number that is one; None for all else, which JSON has of any size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    return f"{value!r:.80}"


def _verify(directory: Path) -> dict[str, Any]:
    """What :mod:`verify` found.

    Raises:
        ToldFailure: Why it is not registered.
    """
    status = subprocess.run(
        [sys.executable, "-m", "lepton_training.worker.own.verify", str(directory)],
        stdin=subprocess.DEVNULL,
        check=False,
    ).returncode
    if status != 0:
        raise CodeModelInvalid(
            f"the model could not be run (status {status}); the job's log has the error"
        )
    verified: dict[str, Any] = json.loads((directory / "verified.json").read_text())
    if verified["failure"]:
        raise ToldFailure(*verified["failure"])
    parity = json.loads((directory / "parity.json").read_text())
    if not parity["agrees"]:
        raise ToldFailure(
            "PARITY_FAILED",
            f"PyTorch and ONNX Runtime differ by up to {parity['max_abs_error']:g}, more than "
            f"{parity['tolerance']:g}: the model is not registered",
        )
    return verified


def _publication(
    *,
    directory: Path,
    request: Mapping[str, Any],
    spec: JobSpec,
    code: Code,
    verified: Mapping[str, Any],
    parity: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Publication:
    hyperparameters = spec.hyperparameters.model_dump()
    if code.module:
        hyperparameters["arguments"] = dict(code.arguments)
    return Publication(
        job=request["job"],
        model=spec.model,
        model_file=directory / "model.onnx",
        attachments={name: directory / name for name in verified["attachments"]},
        inputs=_tensors(verified["inputs"]),
        outputs=_tensors(verified["outputs"]),
        class_names=tuple(verified["class_names"]),
        metrics=metrics,
        evaluation=verified["evaluation"],
        parity=parity,
        dataset_version=spec.dataset,
        dataset_digest=request["dataset_digest"],
        code_version=code_version(),
        recipe="",
        hyperparameters=hyperparameters,
        code_artifact=code.artifact,
        code_sha256=code.sha256,
    )


def _tensors(values: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(one["name"], one["datatype"], tuple(one["shape"]), one["description"])
        for one in values
    )
