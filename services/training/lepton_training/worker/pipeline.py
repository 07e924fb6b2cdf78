"""A job from its request to its registered model."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lepton_mesh.errors import Internal
from lepton_training.events import EventWriter
from lepton_training.job import Phase
from lepton_training.job_files import CHECKPOINT_FILE, read_request
from lepton_training.recipes import RECIPES
from lepton_training.recipes.fitting import batch_size_for
from lepton_training.spec import JobSpec, parse_spec
from lepton_training.warm_start import PAPERS_FILE, PREPROCESSING_FILE, WEIGHTS_FILE
from lepton_training.worker import checkpoint as checkpoints
from lepton_training.worker.assessment import Assessment, assess
from lepton_training.worker.checkpoint import Checkpoint
from lepton_training.worker.checkpoint_keeper import CheckpointKeeper
from lepton_training.worker.code_version import code_version
from lepton_training.worker.data import cleaning
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.devices import CPU, device_for
from lepton_training.worker.export_request import ExportRequest
from lepton_training.worker.exporter import Exporter
from lepton_training.worker.phases import enter
from lepton_training.worker.platform import Platform, Publication
from lepton_training.worker.trainer import Moment, Stopped, Trainer, predict
from lepton_training.worker.tuning import Plan, choose_plan, fixed_plan
from lepton_training.worker.warm_start import Retention, WarmStart, papers

log = logging.getLogger(__name__)

_BEGIN = {
    Phase.PREPARING: 0.0,
    Phase.TRAINING: 0.03,
    Phase.EVALUATING: 0.9,
    Phase.EXPORTING: 0.92,
    Phase.REGISTERING: 0.98,
}
"""Progress of the whole job where each phase begins."""


class ExportFailed(Internal):
    reason = "EXPORT_FAILED"


class ParityFailed(Internal):
    reason = "PARITY_FAILED"


def run(
    directory: Path,
    platform: Platform,
    events: EventWriter,
    keeper: CheckpointKeeper,
    exporter: Exporter,
) -> tuple[str, dict[str, float]]:
    """Does the job in ``directory``.

    Args:
        exporter: Is used up.

    Returns:
        The version that it registered, and its metrics.

    Raises:
        LeptonError: With the reason that the job fails with.
    """
    request = read_request(directory)
    cpus: int = request["cpus"]
    spec = parse_spec(request["spec"], cores=cpus)
    torch.set_num_threads(cpus)
    torch.use_deterministic_algorithms(spec.deterministic)
    device = device_for(spec.resources.gpus)

    enter(events, Phase.PREPARING, _BEGIN)
    platform.fetch_dataset(spec.dataset, directory / "data")
    warm = WarmStart.fetch(platform, directory, spec, request.get("warm_files", {}))
    problem = load_problem(directory / "data", spec, warm.fitted if warm else None)
    log.info("%s: %s", spec.dataset, problem.about)
    for line in cleaning.lines(problem.report):
        log.info("%s", line)
    spec = with_batch_size(spec, len(problem.train))
    hyperparameters: Any = spec.hyperparameters
    torch.manual_seed(spec.seed)
    network = RECIPES[spec.recipe].build(hyperparameters, problem.shape)
    if warm is not None:
        warm.load_into(network)
    keeper.restore()
    state = checkpoints.load(directory / CHECKPOINT_FILE)
    plan = _plan(network, problem, spec, state, cpus=cpus, device=device)
    # Only training is on a GPU: before and after it the network is on the CPU.
    on_cpu = replace(plan, device=CPU)

    retention = Retention.begin(
        platform, directory, spec, problem=problem, network=network, plan=on_cpu, warm=warm
    )

    enter(events, Phase.TRAINING, _BEGIN)
    exporter.load()  # not before: how long steps take was measured
    trainer = Trainer(
        network,
        problem,
        hyperparameters,
        seed=spec.seed,
        plan=plan,
        cpus=cpus,
        fixed_threads=spec.deterministic,
        report=lambda moment: _report(events, moment),
        checkpoint_path=directory / CHECKPOINT_FILE,
    )
    if state is not None:
        log.info("resuming at step %d", state.step)
        trainer.resume(state)
    epoch_seconds = train_until_stopped(trainer, lambda: keeper.close(last=True))
    retained = retention.check(network) if retention else {}

    enter(events, Phase.EVALUATING, _BEGIN)
    # It exports while this one evaluates.
    exporter.begin(_export_request(directory, spec, network, problem), threads=cpus)
    assessment = assess(
        directory,
        problem,
        predict(network, problem.test, problem.objective, on_cpu),
        spec.evaluation,
        network=network,
        plan=on_cpu,
        seed=spec.seed,
    )
    figures = assessment.evaluation.metrics()
    log.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    _write_json(
        directory / "data.json",
        {
            "dataset": spec.dataset,
            "settings": spec.data.model_dump(),
            "about": problem.about,
            **problem.report,
        },
    )
    _write_json(directory / PAPERS_FILE, papers(spec, problem))
    enter(events, Phase.EXPORTING, _BEGIN)
    parity = _finish_export(directory, exporter)

    enter(events, Phase.REGISTERING, _BEGIN)
    metrics = {
        **figures,
        **retained,
        "parity_max_abs_error": float(parity["max_abs_error"]),
        "seconds_per_epoch": float(np.mean(epoch_seconds)),
    }
    registered = platform.publish(
        _publication(
            directory=directory,
            request=request,
            spec=spec,
            problem=problem,
            assessment=assessment,
            parity=parity,
            metrics=metrics,
        )
    )
    log.info("registered %s", registered)
    return registered, metrics


def with_batch_size(spec: JobSpec, examples: int) -> JobSpec:
    """The spec with the batch size that its 0 stands for."""
    hyperparameters: Any = spec.hyperparameters
    if hyperparameters.batch_size:
        return spec
    chosen = {"batch_size": batch_size_for(examples)}
    log.info("hyperparameters.batch_size is %d", chosen["batch_size"])
    return replace(spec, hyperparameters=hyperparameters.model_copy(update=chosen))


def _plan(
    network: nn.Module,
    problem: Problem,
    spec: JobSpec,
    state: Checkpoint | None,
    *,
    cpus: int,
    device: str,
) -> Plan:
    """The plan of an earlier attempt, on this one's device; without one the better plan."""
    if device != CPU:
        log.info("trains on %s", torch.cuda.get_device_name())
    if state is not None:
        return replace(state.plan, device=device)
    # Steps on a GPU return before they are done: there is nothing to time by.
    if spec.deterministic or device != CPU:
        return fixed_plan(network, cpus=cpus, device=device)
    hyperparameters: Any = spec.hyperparameters
    plan, milliseconds = choose_plan(network, problem, hyperparameters, cpus=cpus)
    measured = "; ".join(
        f"{tried} {took:.1f}" for tried, took in milliseconds.items() if math.isfinite(took)
    )
    log.info("chose %s%s", plan, f", by ms a step: {measured}" if measured else "")
    return plan


def train_until_stopped(
    trainer: Trainer, before_end: Callable[[], None] = lambda: None
) -> tuple[float, ...]:
    """Trains to the end, or until SIGTERM: then the checkpoint is of the last step taken.

    Args:
        before_end: Called in the latter case, before this process ends.
    """
    signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    try:
        return trainer.run()
    except Stopped:
        log.info("told to stop; the checkpoint is written")
        before_end()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # so that the status says what ended the process
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _report(events: EventWriter, moment: Moment) -> None:
    begin, end = _BEGIN[Phase.TRAINING], _BEGIN[Phase.EVALUATING]
    events.write(
        "measurement",
        step=moment.step,
        epoch=moment.epoch,
        epochs=moment.epochs,
        progress=begin + (end - begin) * moment.fraction,
        metrics=dict(moment.metrics),
        epoch_end=moment.epoch_end,
        epoch_seconds=moment.epoch_seconds,
    )
    if moment.epoch_end:
        log.info(
            "epoch %d of %d: %.2f s, %s",
            moment.epoch,
            moment.epochs,
            moment.epoch_seconds,
            ", ".join(f"{name} {value:.4f}" for name, value in moment.metrics.items()),
        )


def _export_request(directory: Path, spec: JobSpec, network: nn.Module, problem: Problem) -> Path:
    """Writes what the exporter reads."""
    # Contiguous: the exporter has a network of its own and no need of the training's format.
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    torch.save(weights, directory / WEIGHTS_FILE)
    np.savez(directory / "rows.npz", allow_pickle=True, **problem.raw_rows)
    more_rows = [f"rows-{number}.npz" for number in range(len(problem.more_rows))]
    for name, rows in zip(more_rows, problem.more_rows, strict=True):
        np.savez(directory / name, allow_pickle=True, **rows)
    if problem.preprocessing is not None:
        (directory / PREPROCESSING_FILE).write_bytes(problem.preprocessing)
    request = ExportRequest(
        recipe=spec.recipe,
        hyperparameters=spec.hyperparameters.model_dump(),
        shape=asdict(problem.shape),
        activation=asdict(problem.objective.activation),
        output=problem.outputs[0].name,
        weights=WEIGHTS_FILE,
        rows="rows.npz",
        preprocessing=PREPROCESSING_FILE if problem.preprocessing is not None else "",
        more_rows=more_rows,
    )
    path = directory / "export.json"
    _write_json(path, asdict(request))
    return path


def _finish_export(directory: Path, exporter: Exporter) -> dict[str, Any]:
    status = exporter.wait()
    if status != 0:
        raise ExportFailed(
            f"writing the model as ONNX failed (status {status}); the job's log has the error"
        )
    parity: dict[str, Any] = json.loads((directory / "parity.json").read_text())
    if not parity["agrees"]:
        raise ParityFailed(
            f"PyTorch and ONNX Runtime differ by up to {parity['max_abs_error']:g}, more than "
            f"{parity['tolerance']:g}: the model is not registered"
        )
    log.info("PyTorch and ONNX Runtime agree within %.1e", parity["max_abs_error"])
    return parity


def _publication(
    *,
    directory: Path,
    request: Mapping[str, Any],
    spec: JobSpec,
    problem: Problem,
    assessment: Assessment,
    parity: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> Publication:
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return Publication(
        job=request["job"],
        model=spec.model,
        model_file=directory / "model.onnx",
        attachments={
            name: directory / name
            for name in (
                "parity.json",
                "data.json",
                # What a later job begins with.
                PAPERS_FILE,
                WEIGHTS_FILE,
                *([PREPROCESSING_FILE] if problem.preprocessing is not None else []),
                *assessment.attachments,
                *problem.attachments,
            )
        },
        inputs=problem.inputs,
        outputs=problem.outputs,
        class_names=problem.class_names,
        metrics=finite,
        evaluation=assessment.for_version(),
        parity=parity,
        dataset_version=spec.dataset,
        dataset_digest=request["dataset_digest"],
        code_version=code_version(),
        recipe=spec.recipe,
        hyperparameters=spec.hyperparameters.model_dump(),
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1))
