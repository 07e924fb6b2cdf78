"""Metadata, configuration and statistics of models, as the protocol's messages."""

from __future__ import annotations

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.ensemble_model import EnsembleModel
from lepton_inference.model import LoadedModel, Model
from lepton_inference.recurrent import Recurrent
from lepton_inference.serving import Served
from lepton_inference.settings import BatchingSettings
from lepton_inference.signature import tail_of
from lepton_inference.statistics import Duration
from lepton_inference.tensors import TensorSpec


def metadata(served: Served, model: Model) -> pb.ModelMetadataResponse:
    """What a client needs to know in order to call ``model``."""
    return pb.ModelMetadataResponse(
        name=served.name,
        versions=[each.source.version for each in served.models],
        platform=model.source.platform,
        inputs=[_tensor(spec) for spec in model.signature.inputs],
        outputs=[_tensor(spec) for spec in model.signature.outputs],
    )


def properties(model: Model) -> dict[str, str]:
    """Where and how the model runs on this machine; never left to guess. An ensemble runs where
    its steps do."""
    if not isinstance(model, LoadedModel):
        return {}
    placement, execution = model.session.placement, model.settings.execution
    said = {
        "execution_provider": placement.provider,
        "adaptive_delay": str(model.settings.batching.adaptive_delay).lower(),
        "pad_ragged": str(model.settings.batching.pad_ragged).lower(),
        "isolation": placement.isolation.value,
        "isolation_reason": placement.isolation_reason,
        "memory_limit_mib": str(execution.memory_limit_mib),
        "max_run_ms": str(execution.max_run_ms),
        "inline_rows": str(placement.inline_rows),
        "enough_rows": str(placement.enough_rows),
        "intra_op_threads": str(placement.threads),
        "artifact_digest": model.source.digest,
    }
    if model.recurrent is not None and model.decoupled:
        links = model.recurrent.settings.feed_back
        said["feed_back"] = ", ".join(f"{link.output} -> {link.input}" for link in links)
        said["max_steps"] = str(model.recurrent.settings.max_steps)
    return said | ({"execution_note": placement.note} if placement.note else {})


def config(model: Model) -> pb.ModelConfig:
    """The configuration that the server chose for the model, in Triton's terms."""
    batched = model.signature.batched
    message = pb.ModelConfig(
        name=model.source.name,
        platform=model.source.platform,
        version_policy=pb.ModelVersionPolicy(
            specific=pb.ModelVersionPolicy.Specific(
                versions=[int(model.source.version)] if model.source.version.isdigit() else []
            )
        ),
        max_batch_size=model.max_rows if batched else 0,
        input=[
            pb.ModelInput(
                name=spec.name,
                data_type=_data_type(spec),
                dims=tail_of(spec.shape, batched),
            )
            for spec in model.signature.inputs
        ],
        output=[
            pb.ModelOutput(
                name=spec.name,
                data_type=_data_type(spec),
                dims=tail_of(spec.shape, batched),
            )
            for spec in model.signature.outputs
        ],
        parameters={
            key: pb.ModelParameter(string_value=value) for key, value in properties(model).items()
        },
    )
    if isinstance(model, LoadedModel):
        _add_execution(message, model)
    elif isinstance(model, EnsembleModel):
        message.ensemble_scheduling.MergeFrom(_ensembling(model))
    return message


def _add_execution(message: pb.ModelConfig, model: LoadedModel) -> None:
    """How a model of its own, other than an ensemble, runs."""
    kind = pb.ModelInstanceGroup.Kind
    placement, execution = model.session.placement, model.settings.execution
    on_gpu = bool(placement.devices)
    message.backend = "onnxruntime"
    message.instance_group.add(
        name=f"{model.source.name}_0",
        kind=kind.KIND_GPU if on_gpu else kind.KIND_CPU,
        count=execution.instances,
        gpus=placement.devices,
    )
    if on_gpu:
        optimization = message.optimization
        optimization.input_pinned_memory.enable = placement.pinned
        optimization.cuda.graphs = bool(placement.graph_rows)
        optimization.cuda.graph_spec.extend(
            pb.ModelOptimizationPolicy.Cuda.GraphSpec(batch_size=rows)
            for rows in placement.graph_rows
        )
        if execution.tensorrt:
            optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    if model.signature.batched:
        # A request to a model that remembers has one row; its batches have more.
        message.max_batch_size = model.settings.batching.max_rows
    message.response_cache.enable = model.cache is not None
    batching = model.settings.batching
    if model.recurrent is not None:
        message.model_transaction_policy.decoupled = model.decoupled
        if model.recurrent.sequences is not None:
            message.sequence_batching.MergeFrom(_sequence_batching(model.recurrent, batching))
            return
    if model.signature.batched:
        message.dynamic_batching.MergeFrom(_dynamic_batching(batching))


def _ensembling(model: EnsembleModel) -> pb.ModelEnsembling:
    return pb.ModelEnsembling(
        step=[
            pb.ModelEnsembling.Step(
                model_name=step.endpoint,
                model_version=int(step.model_version) if step.model_version.isdigit() else -1,
                input_map=step.inputs,
                output_map=step.outputs,
            )
            for step in model.ensemble.steps
        ]
    )


def _sequence_batching(
    recurrent: Recurrent, batching: BatchingSettings
) -> pb.ModelSequenceBatching:
    sequences, layout = recurrent.settings, recurrent.layout
    kinds = pb.ModelSequenceBatching
    return kinds(
        max_sequence_idle_microseconds=round(sequences.max_idle_seconds * 1e6),
        # Requests of whichever sequences wait share a batch, the oldest first.
        oldest=kinds.StrategyOldest(
            max_candidate_sequences=sequences.max_sequences,
            preferred_batch_size=batching.preferred_rows,
            max_queue_delay_microseconds=round(batching.max_delay_seconds * 1e6),
            preserve_ordering=True,
        ),
        state=[
            kinds.State(
                input_name=link.input,
                output_name=link.output,
                data_type=_data_type(spec),
                dims=tail_of(spec.shape, layout.public.batched),
                initial_state=[
                    kinds.InitialState(
                        name="zeros",
                        data_type=_data_type(spec),
                        dims=tail_of(spec.shape, layout.public.batched),
                        zero_data=True,
                    )
                ],
            )
            for link, spec in zip(sequences.states, layout.states, strict=True)
        ],
    )


def _dynamic_batching(batching: BatchingSettings) -> pb.ModelDynamicBatching:
    several = batching.priority_levels > 1
    return pb.ModelDynamicBatching(
        preferred_batch_size=batching.preferred_rows,
        max_queue_delay_microseconds=round(batching.max_delay_seconds * 1e6),
        priority_levels=batching.priority_levels if several else 0,
        default_priority_level=batching.default_priority if several else 0,
        default_queue_policy=pb.ModelQueuePolicy(max_queue_size=batching.max_queue),
    )


def statistics(model: Model) -> pb.ModelStatistics:
    """Cumulative counts and nanoseconds since the model was loaded."""
    counted = model.statistics
    return pb.ModelStatistics(
        name=model.source.name,
        version=model.source.version,
        last_inference=counted.last_inference_ms,
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success.duration),
            fail=_duration(counted.failed),
            queue=_duration(counted.queue.duration),
            compute_input=_duration(counted.compute_input.duration),
            compute_infer=_duration(counted.compute_infer.duration),
            compute_output=_duration(counted.compute_output.duration),
            cache_hit=_duration(counted.cache_hit),
            cache_miss=_duration(counted.cache_miss),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(times.compute_input),
                compute_infer=_duration(times.compute_infer),
                compute_output=_duration(times.compute_output),
            )
            for rows, times in sorted(counted.batches.items())
        ],
    )


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype.name, shape=spec.shape
    )


def _data_type(spec: TensorSpec) -> pb.DataType:
    value: pb.DataType = pb.DataType.Value(spec.datatype.config)  # type: ignore[assignment]  # int
    return value


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
