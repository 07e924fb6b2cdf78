"""Models as ONNX Runtime sessions: how one is loaded.

A model is tried before it is let in: a process of its own checks the file, loads it, runs samples
through it and measures (:func:`examine`). What crashes, hangs or takes all memory does so there.
What was found is then used here, without measuring again, and is reported by ModelConfig: the
execution provider, the threads, whether rows may share a batch, up to how many rows a batch runs
inline on the event loop rather than on a worker thread, and how many rows are enough for one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort

from lepton_inference.adapters import devices, measurement
from lepton_inference.adapters.gpu_session import GpuInstance, GpuSession, GraphInstance
from lepton_inference.adapters.isolated_session import IsolatedSession
from lepton_inference.adapters.model_messages import Found, LoadOrder
from lepton_inference.adapters.model_process import ModelProcess
from lepton_inference.adapters.onnx_session import OnnxSession, open_session, signature_of
from lepton_inference.interruption import Interruption
from lepton_inference.model_errors import ModelDoesNotFit
from lepton_inference.placement import Placement
from lepton_inference.settings import (
    EndpointInvalid,
    ExecutionSettings,
    Isolation,
    ModelSettings,
    check_effect,
)
from lepton_inference.signature import Signature, tail_of

log = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
TRIAL_SECONDS = 120.0
"""How long loading and measuring a model may take."""


def load(
    path: Path,
    settings: ModelSettings,
    unwanted: Interruption | None = None,
    name: str = "",
    trial_seconds: float = TRIAL_SECONDS,
) -> OnnxSession | GpuSession | IsolatedSession:
    """Tries, loads and warms the model at ``path``. Blocks; takes seconds.

    Args:
        path: Its file.
        settings: How it is to be served.
        unwanted: Ends the trial and the starts of further instances, where given: nobody waits
            for the model any more.
        name: Whose model it is, as logs and the lists of processes have it.
        trial_seconds: How long loading and measuring it may take.

    Raises:
        ModelInvalid: Not an ONNX model, or one whose weights lie outside of its folder, or
            with tensors of a kind the protocol does not have.
        ModelCrashed, ModelTimeout, ModelDoesNotFit: What came of trying it; the last one too where
            it was ended.
        ProviderMissing: A GPU is there, and its execution provider did not load.
        EndpointInvalid: A setting has no effect on this model.
    """
    unwanted = unwanted or Interruption()
    order = LoadOrder(path, settings, name=name)
    trial = ModelProcess.start(name)
    try:
        with unwanted.during(trial.kill):
            found = trial.load(order, trial_seconds)
        signature, placement = found
        check_effect(settings, batched=signature.batched, ragged=signature.ragged)
        if placement.note:
            log.warning("serving on the CPU", extra={"because": placement.note})
        _check_wanted(unwanted)  # what follows takes as long again
        if placement.isolation is Isolation.SHARED:
            trial.close()
            return reopen(path, settings, found, range(settings.execution.instances))
        return IsolatedSession(replace(order, known=found), trial, trial_seconds, unwanted)
    except BaseException:
        trial.close()
        raise


def _check_wanted(unwanted: Interruption) -> None:
    if unwanted.came:
        raise ModelDoesNotFit("nobody waits for the model any more; it was not loaded")


def reopen(
    path: Path, settings: ModelSettings, found: Found, instances: Sequence[int]
) -> OnnxSession | GpuSession:
    """Loads and warms a model that was tried, in this process.

    Args:
        path: Its file.
        settings: Those that it was tried with.
        found: What the trial found.
        instances: Which of its instances are to be here.
    """
    signature, placement = found
    # On the CPU instances share a session, and the weights with it.
    there = instances if placement.devices else instances[:1]
    sessions = [
        open_session(
            path,
            devices.providers(path, settings, signature, placement, instance),
            placement.threads,
        )
        for instance in there
    ]
    if not placement.devices:
        (session,) = sessions
        rows = placement.enough_rows or measurement.TYPICAL_ROWS
        measurement.warm(session, signature, min(rows, settings.batching.max_rows))
        return OnnxSession(session, signature, placement)
    return _on_gpu(sessions, there, found)


def isolate(placement: Placement, execution: ExecutionSettings, growth: str) -> Placement:
    """Decides where a model runs.

    Args:
        placement: How it would run in the server's process.
        execution: What is asked for.
        growth: What makes its memory or time depend on requests; "" if its shapes bound them.
    """
    isolation, reason = execution.isolation, "asked for"
    if isolation is Isolation.AUTO:
        if execution.memory_limit_mib or execution.max_run_ms:
            isolation, reason = Isolation.OWN_PROCESS, "its memory or its time is limited"
        elif growth:
            isolation, reason = Isolation.OWN_PROCESS, growth
        else:
            isolation, reason = Isolation.SHARED, "its shapes bound what it takes"
    return replace(
        placement,
        isolation=isolation,
        isolation_reason=reason,
        inline_rows=placement.inline_rows if isolation is Isolation.SHARED else 0,
    )


def examine(path: Path, settings: ModelSettings) -> OnnxSession:
    """Loads, warms and measures the model in this process, which may die of it.

    The file was checked before. Raises as :func:`load`, but MemoryError where memory ends.
    """
    execution = settings.execution
    chosen = devices.choose(execution)
    # TensorRT would compile for minutes what is only measured here.
    providers: devices.Providers = [devices.CPU]
    if chosen.devices:
        providers = [*devices.cuda(chosen.devices[0], execution), devices.CPU]
    session = open_session(path, providers, threads=1)
    signature = signature_of(session)
    if signature.batched and not measurement.rows_are_independent(session, signature):
        signature = replace(signature, batched=False)
    most = settings.batching.max_rows if signature.batched else 1
    rows = measurement.typical_rows(session, signature, most)
    with measurement.CoreShare() as share:
        seconds, threads = measurement.batch_seconds(session, signature, rows), 1
    # Batches that run at a time share the cores out.
    cores = max(1, len(os.sched_getaffinity(0)) // execution.instances)
    if seconds > measurement.INLINE_SECONDS and not chosen.devices and cores > 1:
        wide = open_session(path, providers, threads=cores)
        with_all = measurement.batch_seconds(wide, signature, rows)
        # Where other work has the cores now comparing says nothing: the model is served for
        # longer than they are taken.
        if with_all < 0.9 * seconds or share.disturbed:
            session, seconds, threads = wide, with_all, cores
    inline = 0
    # Where the request chooses the lengths, no measurement says what a batch takes.
    if seconds <= measurement.INLINE_SECONDS and not signature.ragged:
        inline = measurement.inline_rows(session, signature, rows, most)
    enough = 0
    if signature.batched and not signature.ragged:
        enough = measurement.enough_rows(session, signature, most)
    graphs: tuple[int, ...] = ()
    if execution.cuda_graphs:
        check_fixed_shapes(signature)
        graphs = devices.graph_rows(settings.batching.preferred_rows, most)
    placement = Placement(
        chosen.provider,
        threads,
        inline,
        enough,
        chosen.note,
        devices=chosen.devices,
        graph_rows=graphs,
    )
    return OnnxSession(session, signature, placement)


def check_fixed_shapes(signature: Signature) -> None:
    """Raises EndpointInvalid for a model whose shapes CUDA graphs cannot have."""
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype.name in ("BYTES", "BF16") or any(
            dim < 0 for dim in tail_of(spec.shape, signature.batched)
        ):
            raise EndpointInvalid(
                f"execution.cuda_graphs needs shapes that are fixed but for the batch, and "
                f"'{spec.name}' is {spec.datatype.name} {list(spec.shape)}",
                field="execution.cuda_graphs",
            )


def _on_gpu(
    sessions: Sequence[ort.InferenceSession], instances: Sequence[int], found: Found
) -> GpuSession:
    """Instances on GPUs, each warmed: the first run of a session allocates what all others use."""
    signature, placement = found
    opened: list[GpuInstance] = []
    for session, instance in zip(sessions, instances, strict=True):
        if placement.graph_rows:
            device = placement.devices[instance % len(placement.devices)]
            graphs = GraphInstance(session, signature, device, placement.graph_rows)
            graphs.capture()
            opened.append(graphs)
        else:
            measurement.warm(session, signature, 1)
            opened.append(GpuInstance(session, signature))
    return GpuSession(opened, signature, placement)
