"""Endpoints as the management API's messages."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton_inference.endpoint import Endpoint, Wanted
from lepton_inference.settings import (
    BatchingSettings,
    Ensemble,
    EnsembleStep,
    ExecutionSettings,
    Isolation,
    ModelSettings,
    SequenceSettings,
    StateTensor,
)
from lepton_mesh.resources import parse_name


def endpoint_message(endpoint: Endpoint) -> pb.Endpoint:
    """The resource that clients see."""
    settings = endpoint.settings
    return pb.Endpoint(
        name=endpoint.name,
        targets=[
            pb.Target(
                model_version=target.wanted,
                weight=target.weight,
                resolved_version=target.version.name,
                sha256=target.version.sha256,
            )
            for target in endpoint.targets
        ],
        batching=None if endpoint.ensemble else _batching_message(settings.batching),
        sequence=_sequence_message(settings.sequence) if settings.sequence else None,
        execution=None if endpoint.ensemble else _execution_message(settings.execution),
        shadows=[
            pb.Shadow(
                model_version=shadow.wanted,
                percent=shadow.percent,
                resolved_version=shadow.version.name,
                sha256=shadow.version.sha256,
            )
            for shadow in endpoint.shadows
        ],
        response_cache_bytes=settings.response_cache_bytes,
        ensemble=_ensemble_message(endpoint.ensemble) if endpoint.ensemble else None,
        state=endpoint.state.value,
        failure_reason=endpoint.failure_reason,
        failure_message=endpoint.failure_message,
        execution_provider=endpoint.execution_provider,
        description=endpoint.description,
        labels=endpoint.labels,
        creator=endpoint.creator,
        create_time=_timestamp(endpoint.created),
        update_time=_timestamp(endpoint.updated),
        etag=str(endpoint.revision),
    )


def wanted_of(message: pb.Endpoint) -> Wanted:
    """What the user asks for, with defaults where nothing was said; bounds are not checked."""
    return Wanted(
        targets=tuple((target.model_version, target.weight) for target in message.targets),
        shadows=tuple((shadow.model_version, shadow.percent) for shadow in message.shadows),
        settings=ModelSettings(
            batching=_batching(message.batching),
            sequence=_sequence(message.sequence) if message.HasField("sequence") else None,
            execution=_execution(message.execution),
            response_cache_bytes=message.response_cache_bytes,
        ),
        ensemble=_ensemble(message.ensemble) if message.HasField("ensemble") else None,
        description=message.description,
        labels=dict(message.labels),
    )


def _batching(message: pb.Batching) -> BatchingSettings:
    levels = message.priority_levels or 1
    return BatchingSettings(
        max_rows=message.max_batch_rows or BatchingSettings.max_rows,
        max_delay_seconds=message.max_delay_us / 1e6,
        max_queue=message.max_queue or BatchingSettings.max_queue,
        preferred_rows=tuple(message.preferred_batch_rows),
        adaptive_delay=message.adaptive_delay,
        priority_levels=levels,
        default_priority=message.default_priority or levels,
        pad_ragged=message.pad_ragged,
    )


def _batching_message(batching: BatchingSettings) -> pb.Batching:
    return pb.Batching(
        max_batch_rows=batching.max_rows,
        max_delay_us=round(batching.max_delay_seconds * 1e6),
        max_queue=batching.max_queue,
        preferred_batch_rows=batching.preferred_rows,
        adaptive_delay=batching.adaptive_delay,
        priority_levels=batching.priority_levels,
        default_priority=batching.default_priority,
        pad_ragged=batching.pad_ragged,
    )


def _sequence(message: pb.SequenceBatching) -> SequenceSettings:
    return SequenceSettings(
        states=tuple(StateTensor(state.input, state.output) for state in message.states),
        max_idle_seconds=message.max_idle_us / 1e6 or SequenceSettings.max_idle_seconds,
        max_sequences=message.max_sequences or SequenceSettings.max_sequences,
        feed_back=message.feed_back,
    )


def _sequence_message(sequence: SequenceSettings) -> pb.SequenceBatching:
    return pb.SequenceBatching(
        states=[
            pb.StateTensor(input=state.input, output=state.output) for state in sequence.states
        ],
        max_idle_us=round(sequence.max_idle_seconds * 1e6),
        max_sequences=sequence.max_sequences,
        feed_back=sequence.feed_back,
    )


def _execution(message: pb.Execution) -> ExecutionSettings:
    return ExecutionSettings(
        instances=message.instances or 1,
        provider=message.provider,
        devices=tuple(message.devices),
        cuda_graphs=message.cuda_graphs,
        isolation=Isolation(pb.Execution.Isolation.Name(message.isolation)),
        memory_limit_mib=message.memory_limit_mib,
        max_run_seconds=message.max_run_us / 1e6 or ExecutionSettings.max_run_seconds,
    )


def _execution_message(execution: ExecutionSettings) -> pb.Execution:
    return pb.Execution(
        instances=execution.instances,
        provider=execution.provider,
        devices=execution.devices,
        cuda_graphs=execution.cuda_graphs,
        isolation=execution.isolation.value,
        memory_limit_mib=execution.memory_limit_mib,
        max_run_us=round(execution.max_run_seconds * 1e6),
    )


def _ensemble(message: pb.Ensemble) -> Ensemble:
    return Ensemble(
        steps=tuple(
            EnsembleStep(
                endpoint=parse_name("endpoints/{endpoint}", step.endpoint)[0],
                inputs=tuple(sorted(step.inputs.items())),
                outputs=tuple(sorted(step.outputs.items())),
            )
            for step in message.steps
        ),
        outputs=tuple(message.outputs),
    )


def _ensemble_message(ensemble: Ensemble) -> pb.Ensemble:
    return pb.Ensemble(
        steps=[
            pb.EnsembleStep(
                endpoint=f"endpoints/{step.endpoint}",
                inputs=dict(step.inputs),
                outputs=dict(step.outputs),
            )
            for step in ensemble.steps
        ],
        outputs=ensemble.outputs,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
