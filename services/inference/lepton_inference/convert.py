"""Endpoints as the management API's messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton_inference.endpoint import Endpoint, Shadow, Wanted, WantedShadow
from lepton_inference.ensemble import Ensemble, EnsembleStep
from lepton_inference.settings import (
    BatchingSettings,
    EndpointInvalid,
    ExecutionSettings,
    Isolation,
    Link,
    ModelSettings,
    SequenceSettings,
    default_level,
)
from lepton_inference.shadow import Comparison
from lepton_mesh.resources import check_id

_DEFAULT_TOLERANCE = 1e-3


def endpoint_message(
    endpoint: Endpoint, comparison: Comparison | None = None, activity: str = ""
) -> pb.Endpoint:
    """The resource that clients see, with what its shadow was found to answer and what is done."""
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
        batching=_batching_message(endpoint.settings.batching),
        execution=_execution_message(endpoint.settings.execution),
        shadow=_shadow_message(endpoint.shadow, comparison),
        ensemble=_ensemble_message(endpoint.ensemble),
        response_cache_bytes=endpoint.settings.response_cache_bytes,
        sequences=_sequences_message(endpoint.settings.sequences),
        unloaded=endpoint.unloaded,
        state=endpoint.state.value,
        failure_reason=endpoint.failure_reason,
        failure_message=endpoint.failure_message,
        activity=activity,
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
        # An empty one is none, so that a file can take a shadow away.
        shadow=_shadow(message.shadow) if message.shadow.model_version else None,
        ensemble=_ensemble(message.ensemble) if message.HasField("ensemble") else None,
        settings=ModelSettings(
            batching=_batching(message.batching),
            execution=_execution(message.execution),
            response_cache_bytes=message.response_cache_bytes,
            sequences=_sequences(message.sequences) if message.HasField("sequences") else None,
        ),
        unloaded=message.unloaded,
        description=message.description,
        labels=dict(message.labels),
    )


def _shadow(message: pb.Shadow) -> WantedShadow:
    return WantedShadow(
        message.model_version, message.percent, message.tolerance or _DEFAULT_TOLERANCE
    )


def _shadow_message(shadow: Shadow | None, comparison: Comparison | None) -> pb.Shadow | None:
    if shadow is None:
        return None
    return pb.Shadow(
        model_version=shadow.wanted,
        percent=shadow.percent,
        resolved_version=shadow.version.name,
        sha256=shadow.version.sha256,
        tolerance=shadow.tolerance,
        comparison=None if comparison is None else _comparison_message(comparison),
    )


def _comparison_message(comparison: Comparison) -> pb.ShadowComparison:
    return pb.ShadowComparison(
        compared=comparison.compared,
        agreed=comparison.agreed,
        failed=comparison.failed,
        dropped=comparison.dropped,
        outputs={
            name: pb.ShadowComparison.Output(
                max_abs_difference=output.max_abs_difference,
                differing=output.differing,
                rows=output.rows,
                same_argmax=output.same_argmax,
            )
            for name, output in comparison.outputs.items()
        },
    )


def _ensemble(message: pb.Ensemble) -> Ensemble:
    return Ensemble(
        steps=tuple(
            EnsembleStep(
                endpoint=check_id(step.endpoint.removeprefix("endpoints/"), "endpoint"),
                # A map has no order on the wire; one that is kept is the same each time.
                inputs=dict(sorted(step.inputs.items())),
                outputs=dict(sorted(step.outputs.items())),
                model_version=step.model_version,
            )
            for step in message.steps
        ),
        outputs=tuple(message.outputs),
    )


def _ensemble_message(ensemble: Ensemble | None) -> pb.Ensemble | None:
    if ensemble is None:
        return None
    return pb.Ensemble(
        steps=[
            pb.EnsembleStep(
                endpoint=step.endpoint,
                model_version=step.model_version,
                inputs=step.inputs,
                outputs=step.outputs,
            )
            for step in ensemble.steps
        ],
        outputs=ensemble.outputs,
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
        default_priority=default_level(message.default_priority, levels),
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
        # The level of the only one is not said: sent back, it would be refused.
        default_priority=batching.default_priority if batching.priority_levels > 1 else 0,
        pad_ragged=batching.pad_ragged,
    )


def _sequences(message: pb.SequenceBatching) -> SequenceSettings:
    return SequenceSettings(
        states=_links(message.states),
        max_idle_seconds=message.max_idle_us / 1e6 or SequenceSettings.max_idle_seconds,
        max_sequences=message.max_sequences or SequenceSettings.max_sequences,
        feed_back=_links(message.feed_back),
        max_steps=message.max_steps or SequenceSettings.max_steps,
    )


def _links(links: Iterable[pb.SequenceBatching.Link]) -> tuple[Link, ...]:
    return tuple(Link(output=link.output, input=link.input) for link in links)


def _sequences_message(sequences: SequenceSettings | None) -> pb.SequenceBatching | None:
    if sequences is None:
        return None
    return pb.SequenceBatching(
        states=_link_messages(sequences.states),
        max_idle_us=round(sequences.max_idle_seconds * 1e6) if sequences.states else 0,
        max_sequences=sequences.max_sequences if sequences.states else 0,
        feed_back=_link_messages(sequences.feed_back),
        max_steps=sequences.max_steps if sequences.feed_back else 0,
    )


def _link_messages(links: Iterable[Link]) -> list[pb.SequenceBatching.Link]:
    return [pb.SequenceBatching.Link(output=link.output, input=link.input) for link in links]


def _execution(message: pb.Execution) -> ExecutionSettings:
    asked = {value.value: value for value in Isolation}
    names = {number: name for name, number in pb.Execution.Isolation.items()}
    if message.isolation not in names:
        raise EndpointInvalid(
            f"execution.isolation is {message.isolation}; use {', '.join(asked)}",
            field="execution.isolation",
        )
    return ExecutionSettings(
        instances=message.instances or 1,
        isolation=asked.get(names[message.isolation], Isolation.AUTO),
        memory_limit_mib=message.memory_limit_mib,
        max_run_ms=message.max_run_ms,
        devices=tuple(message.devices),
        cuda_graphs=message.cuda_graphs,
        tensorrt=message.tensorrt,
    )


def _execution_message(execution: ExecutionSettings) -> pb.Execution:
    return pb.Execution(
        instances=execution.instances,
        isolation=execution.isolation.value,
        memory_limit_mib=execution.memory_limit_mib,
        max_run_ms=execution.max_run_ms,
        devices=execution.devices,
        cuda_graphs=execution.cuda_graphs,
        tensorrt=execution.tensorrt,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
