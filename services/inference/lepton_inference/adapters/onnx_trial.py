"""The trial of a model that nothing is known of; runs in a process that may die of it."""

from __future__ import annotations

from pathlib import Path

from lepton_inference.adapters import onnx_runtime
from lepton_inference.adapters.gpu_session import GpuSession
from lepton_inference.adapters.onnx_bounds import growth_of
from lepton_inference.adapters.onnx_checks import check_file
from lepton_inference.adapters.onnx_full_batch import full_batch_growth
from lepton_inference.adapters.onnx_session import OnnxSession
from lepton_inference.settings import ModelSettings


def try_out(path: Path, settings: ModelSettings) -> OnnxSession | GpuSession:
    """Checks the model's file, opens it, measures it, and decides where it may run.

    Raises as :func:`lepton_inference.adapters.onnx_runtime.load`, but MemoryError where memory
    ends.
    """
    growth = growth_of(check_file(path))
    session = onnx_runtime.examine(path, settings)
    if not growth and session.signature.ragged:
        growth = "a request chooses the lengths of its inputs"
    if not growth:
        growth = full_batch_growth(session, settings.batching.max_rows)
    session.placement = onnx_runtime.isolate(session.placement, settings.execution, growth)
    if not session.placement.devices:
        return session
    # A GPU's sessions are opened otherwise than measured, which is to be tried as well.
    found = session.signature, session.placement
    session.close()
    return onnx_runtime.reopen(path, settings, found, [0])
