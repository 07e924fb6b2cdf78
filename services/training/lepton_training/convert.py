"""Protobuf <-> domain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.training.v1 import training_pb2 as pb
from lepton_training.job import Attempt, Event, Job, Measurement, StoredCheckpoint
from lepton_training.job_queue import Place
from lepton_training.jobs import LogLine
from lepton_training.recipes import CARDS, Recipe
from lepton_training.recipes.hyperparameters import Settings, describe


def spec_document(spec: pb.JobSpec) -> dict[str, Any]:
    """A spec as the plain data that ``parse_spec`` reads."""
    return {
        "recipe": spec.recipe,
        "code": _code_document(spec.code) if spec.HasField("code") else None,
        "python": {"requirements": spec.python.requirements} if spec.HasField("python") else None,
        "dataset": spec.dataset,
        "model": spec.model,
        "hyperparameters": _plain(spec.hyperparameters),
        "data": _plain(spec.data),
        "evaluation": _plain(spec.evaluation),
        "seed": spec.seed,
        "resources": {
            "cpus": spec.resources.cpus,
            "memory_mib": spec.resources.memory_mib,
            "timeout_seconds": spec.resources.timeout_seconds,
            "gpus": spec.resources.gpus,
        },
        "labels": dict(spec.labels),
        "priority": _priority(spec.priority),
        "retry": {
            "max_attempts": spec.retry.max_attempts,
            "initial_backoff_seconds": spec.retry.initial_backoff_seconds,
            "max_backoff_seconds": spec.retry.max_backoff_seconds,
        },
        "deterministic": spec.deterministic,
        "warm_start": _warm_start_document(spec) if spec.HasField("warm_start") else None,
    }


def _code_document(code: pb.Code) -> dict[str, Any]:
    return {
        "artifact": code.artifact,
        "entry_point": code.entry_point,
        "module": code.module,
        "data_kind": code.data_kind,
        "arguments": _plain(code.arguments),
        "processes": code.processes,
    }


def _plain(struct: Struct) -> dict[str, Any]:
    """A Struct as plain data, with NaN and infinities, which protobuf's own conversion refuses
    without a word of where they are: they are faults of the spec."""
    return {name: _plain_value(value) for name, value in struct.fields.items()}


def _plain_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "list_value":
        return [_plain_value(one) for one in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def spec_message(spec: Mapping[str, Any]) -> pb.JobSpec:
    """A spec as kept in a job's record."""
    hyperparameters, data, evaluation = Struct(), Struct(), Struct()
    hyperparameters.update(spec["hyperparameters"])
    data.update(spec.get("data", {}))
    evaluation.update(spec.get("evaluation", {}))
    return pb.JobSpec(
        recipe=spec["recipe"],
        dataset=spec["dataset"],
        model=spec["model"],
        hyperparameters=hyperparameters,
        data=data,
        seed=spec["seed"],
        resources=pb.Resources(**spec["resources"]),
        labels=spec["labels"],
        priority=spec.get("priority"),
        retry=pb.Retry(**spec["retry"]) if "retry" in spec else None,
        deterministic=spec.get("deterministic", False),
        evaluation=evaluation,
        warm_start=_warm_start_message(spec.get("warm_start")),
        code=_code_message(spec["code"]) if spec.get("code") else None,
        python=pb.PythonEnvironment(**spec["python"]) if spec.get("python") else None,
    )


def _code_message(code: Mapping[str, Any]) -> pb.Code:
    arguments = Struct()
    arguments.update(code["arguments"])
    return pb.Code(**{**code, "arguments": arguments})


def job_message(job: Job, waiting: Mapping[tuple[str, str], Place] | None = None) -> pb.Job:
    """A job's record, with its place if that is among ``waiting``."""
    place = (waiting or {}).get((job.workspace, job.id))
    return pb.Job(
        name=job.name,
        spec=spec_message(job.spec),
        state=str(job.state),
        phase=str(job.phase),
        progress=job.progress,
        metrics=job.metrics,
        epoch_seconds=job.epoch_seconds,
        failure_reason=job.failure_reason,
        failure_message=job.failure_message,
        model_version=job.model_version,
        creator=job.creator,
        create_time=_timestamp(job.create_time),
        start_time=_timestamp(job.start_time) if job.start_time else None,
        end_time=_timestamp(job.end_time) if job.end_time else None,
        attempts=job.attempts,
        queue_position=place.position if place else 0,
        waiting_reason=place.reason if place else "",
        history=[_attempt_message(attempt) for attempt in job.history],
        checkpoint=_checkpoint_message(job.checkpoint) if job.checkpoint else None,
    )


def event_message(event: Event) -> pb.JobEvent:
    """An event of a job."""
    message = pb.JobEvent(sequence=event.sequence, time=_timestamp(event.time))
    if isinstance(event.content, Job):
        message.job.CopyFrom(job_message(event.content))
    else:
        message.measurement.CopyFrom(_measurement_message(event.content))
    return message


def log_line_message(line: LogLine) -> pb.LogLine:
    """A line of a log."""
    return pb.LogLine(time=_timestamp(line.time), text=line.text)


def recipe_message(recipe: Recipe) -> pb.Recipe:
    """A recipe with all that can be set."""
    return pb.Recipe(
        id=recipe.id,
        description=recipe.description,
        hyperparameters=_described(recipe.hyperparameters),
        data=_described(recipe.data.settings),
        card=CARDS[recipe.id],
    )


def _warm_start_document(spec: pb.JobSpec) -> dict[str, Any]:
    warm = spec.warm_start
    retain = {"dataset": warm.retain.dataset, "max_drop": warm.retain.max_drop}
    return {
        "model_version": warm.model_version,
        "partial": warm.partial,
        "retain": retain if warm.HasField("retain") else None,
    }


def _warm_start_message(warm: Mapping[str, Any] | None) -> pb.WarmStart | None:
    if warm is None:
        return None
    retain = warm["retain"]
    return pb.WarmStart(
        model_version=warm["model_version"],
        partial=warm["partial"],
        retain=None if retain is None else pb.Retain(**retain),
    )


def _priority(number: int) -> str:
    """The name; the number as text where there is none, which is a fault of the spec."""
    if not number:
        return ""
    names = pb.JobSpec.Priority
    return names.Name(number) if number in names.values() else str(number)


def _attempt_message(attempt: Attempt) -> pb.Attempt:
    return pb.Attempt(
        number=attempt.number,
        start_time=_timestamp(attempt.start_time),
        end_time=_timestamp(attempt.end_time) if attempt.end_time else None,
        reason=attempt.reason,
        message=attempt.message,
    )


def _checkpoint_message(stored: StoredCheckpoint) -> pb.StoredCheckpoint:
    return pb.StoredCheckpoint(
        artifact=stored.artifact, sha256=stored.sha256, store_time=_timestamp(stored.time)
    )


def _described(declared: type[Settings]) -> list[pb.Hyperparameter]:
    return [
        pb.Hyperparameter(name=name, type=type_, default_value=default, description=description)
        for name, type_, default, description in describe(declared)
    ]


def _measurement_message(measurement: Measurement) -> pb.Measurement:
    return pb.Measurement(
        step=measurement.step,
        epoch=measurement.epoch,
        epochs=measurement.epochs,
        progress=measurement.progress,
        metrics=measurement.metrics,
        epoch_end=measurement.epoch_end,
    )


def _timestamp(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
