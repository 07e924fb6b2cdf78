"""Models as ONNX Runtime sessions: loading, placement, warm-up, and how each is best run.

What is chosen is measured on the model itself when it is loaded, and reported by ModelConfig:
the execution provider, the threads, whether rows may share a batch, and up to how many rows a
batch runs inline on the event loop rather than on a worker thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lepton_inference.settings import ModelSettings, check_effect
from lepton_inference.signature import Signature, Tails
from lepton_inference.tensors import BY_ONNX, Column, TensorSpec
from lepton_mesh.errors import FailedPrecondition, InvalidArgument

log = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_DEVICES = Path("/dev")
_GPU_IDLE = (
    "a GPU is there and this onnxruntime was built without CUDA; install onnxruntime-gpu in its "
    "place"
)
_TYPICAL_ROWS = 16
"""The batch that a turn of a busy loop typically collects."""
_MOST_INLINE_ROWS = 256
"""The largest batch that is tried inline."""
_INLINE_SECONDS = 0.002
"""A batch may hold the event loop for so long: beyond, a worker thread wins."""


class ModelInvalid(InvalidArgument):
    """The artifact is not an ONNX model that can be served."""

    reason = "MODEL_INVALID"


class ProviderMissing(FailedPrecondition):
    """A GPU is there and ONNX Runtime does not use it."""

    reason = "EXECUTION_PROVIDER_MISSING"


@dataclass(frozen=True, slots=True)
class Placement:
    """How a session runs on this machine."""

    provider: str
    """ONNX Runtime's name of the execution provider."""
    threads: int
    inline_rows: int
    """The largest batch that runs on the event loop, measured at load; 0 for none."""
    note: str = ""
    """What of this machine is left unused, and what to do about it; "" for nothing."""


class OnnxSession:
    """One model in memory, warmed up. A Runner for the batcher."""

    def __init__(
        self, session: ort.InferenceSession, signature: Signature, placement: Placement
    ) -> None:
        self._session: ort.InferenceSession | None = session
        self.signature = signature
        self.placement = placement

    def join(
        self, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
    ) -> dict[str, np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.Runner`."""
        batched = self.signature.batched
        return {
            spec.name: _join(spec, column, (rows, *tail) if batched else tail)
            for spec, column, tail in zip(self.signature.inputs, columns, tails, strict=True)
        }

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.Runner`."""
        if self._session is None:
            raise RuntimeError("the session was closed while its queue was not empty")
        return self._session.run(None, feeds)  # type: ignore[no-any-return]  # untyped library

    def close(self) -> None:
        """Gives the session's memory back."""
        self._session = None


def load(path: Path, settings: ModelSettings) -> OnnxSession:
    """Loads, checks, warms and measures the model at ``path``. Blocks; takes seconds.

    Raises:
        ModelInvalid: Not an ONNX model, or one whose weights lie outside of its folder, or
            with tensors of a kind the protocol does not have.
        ProviderMissing: A GPU is there, and its execution provider did not load.
        EndpointInvalid: A setting has no effect on this model.
    """
    _check_external_data(path)
    provider, note = _provider()
    session = _open(path, provider, threads=1)
    signature = _signature(session)
    if signature.batched and not _rows_are_independent(session, signature):
        signature = Signature(signature.inputs, signature.outputs, batched=False)
    check_effect(settings, batched=signature.batched, ragged=signature.ragged)
    most = settings.batching.max_rows if signature.batched else 1
    rows = min(_TYPICAL_ROWS, most)
    seconds, threads = _measure(session, signature, rows), 1
    # Batches that run at a time share the cores out.
    cores = max(1, len(os.sched_getaffinity(0)) // settings.execution.instances)
    if seconds > _INLINE_SECONDS and provider == _CPU and cores > 1:
        wide = _open(path, provider, threads=cores)
        with_all = _measure(wide, signature, rows)
        if with_all < 0.9 * seconds:
            session, seconds, threads = wide, with_all, cores
    placement = Placement(
        provider=provider,
        threads=threads,
        inline_rows=(
            _inline_rows(session, signature, rows, most)
            # Where the request chooses the lengths, no measurement says what a batch takes.
            if seconds <= _INLINE_SECONDS and not signature.ragged
            else 0
        ),
        note=note,
    )
    return OnnxSession(session, signature, placement)


def _provider() -> tuple[str, str]:
    """The execution provider, and what is to be said of it: CUDA where a GPU is, else CPU.

    An onnxruntime without CUDA serves on the CPU beside a GPU, because a machine with a screen
    has one too; but it says so, in the log and in the model's properties.
    """
    if not any(_DEVICES.glob("nvidia[0-9]*")):
        return _CPU, ""
    if _CUDA in ort.get_available_providers():
        _preload_cuda()
        return _CUDA, ""
    log.warning("serving on the CPU", extra={"because": _GPU_IDLE})
    return _CPU, _GPU_IDLE


@cache
def _preload_cuda() -> None:
    """Loads CUDA and cuDNN from their Python packages, where the system's linker never looks."""
    # Since ONNX Runtime 1.21.
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        preload()


def _open(path: Path, provider: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A thread that spins for its next batch takes the core from whoever brings it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [provider] if provider == _CPU else [provider, _CPU]
    try:
        # Whose models run here, and on what, is nobody else's business.
        ort.disable_telemetry_events()
        session = ort.InferenceSession(str(path), options, providers=providers)
    # ONNX Runtime's exceptions have no common base.
    except Exception as error:
        raise ModelInvalid(
            f"ONNX Runtime cannot load the model: {str(error).splitlines()[0][:300]}"
        ) from None
    # onnxruntime-gpu falls back to the CPU without a word when a CUDA library is missing.
    if provider not in session.get_providers():
        raise ProviderMissing(
            f"a GPU is there and ONNX Runtime loaded without {provider}; install the CUDA and "
            "cuDNN libraries that onnxruntime-gpu names",
            provider=provider,
        )
    return session


def _check_external_data(path: Path) -> None:
    """Weights may lie beside the model, in its folder, and nowhere else."""
    try:
        model = onnx.load(str(path), load_external_data=False)
    # The parser's error class differs between protobuf's implementations.
    except Exception:
        raise ModelInvalid("the artifact is not an ONNX model: it does not parse") from None
    folder = path.parent.resolve()
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        target = (folder / place).resolve()
        if not place or Path(place).is_absolute() or not target.is_relative_to(folder):
            raise ModelInvalid(
                f"the weights '{tensor.name}' lie outside of the model's folder; export the "
                "model with its weights inside",
                tensor=tensor.name,
            )


def _signature(session: ort.InferenceSession) -> Signature:
    inputs = tuple(_spec(node) for node in session.get_inputs())
    outputs = tuple(_spec(node) for node in session.get_outputs())
    if not inputs or not outputs:
        raise ModelInvalid("the model has no input or no output")
    batched = all(spec.shape and spec.shape[0] == -1 for spec in (*inputs, *outputs))
    return Signature(inputs, outputs, batched)


def _spec(node: Any) -> TensorSpec:
    datatype = BY_ONNX.get(node.type)
    if datatype is None:
        raise ModelInvalid(
            f"the tensor '{node.name}' is of the type {node.type}, which cannot be served; "
            f"use one of {', '.join(sorted(BY_ONNX))}",
            tensor=node.name,
        )
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else -1 for dim in node.shape or ())
    names = tuple(dim if isinstance(dim, str) else "" for dim in node.shape or ())
    return TensorSpec(node.name, datatype, shape, names)


def _sample(spec: TensorSpec, rows: int, batched: bool) -> np.ndarray[Any, Any]:
    """An input for warm-up; a free dimension beyond the batch is taken as 1."""
    shape = tuple(
        rows if axis == 0 and batched else max(dim, 1) for axis, dim in enumerate(spec.shape)
    )
    if spec.datatype.name == "BYTES":
        return np.full(shape, "", dtype=object)
    if spec.datatype.dtype.kind == "f":
        # Seeded: what is chosen at load must not change from one load to the next.
        values = np.random.default_rng(7).standard_normal(shape)
        return values.astype(spec.datatype.dtype)
    return np.zeros(shape, spec.datatype.dtype)


def _samples(signature: Signature, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    return {spec.name: _sample(spec, rows, signature.batched) for spec in signature.inputs}


def _rows_are_independent(session: ort.InferenceSession, signature: Signature) -> bool:
    """Whether a batch gives what its rows give alone, which sharing a batch depends on."""
    rows = 3
    feeds = _samples(signature, rows)
    try:
        together = session.run(None, feeds)
        if any(array.shape[0] != rows for array in together):
            return False
        for row in range(rows):
            alone = session.run(None, {k: v[row : row + 1] for k, v in feeds.items()})
            for one, all_rows in zip(alone, together, strict=True):
                if one.dtype == object or one.shape != all_rows[row : row + 1].shape:
                    continue
                if not np.allclose(
                    one, all_rows[row : row + 1], rtol=1e-3, atol=1e-3, equal_nan=True
                ):
                    return False
    # A model may refuse a sample it was never meant for; its requests then run one by one.
    except Exception:
        return False
    return True


def _measure(session: ort.InferenceSession, signature: Signature, rows: int) -> float:
    """Seconds of the median of a few warm batches; infinite for a model that refuses samples."""
    feeds = _samples(signature, rows)
    times = []
    try:
        for _ in range(7):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
            if sum(times) > 2.0:
                break
    # As above: no sample fits every model, and one that cannot be measured gets a worker.
    except Exception:
        return float("inf")
    return sorted(times[1:] or times)[len(times[1:] or times) // 2]


def _inline_rows(session: ort.InferenceSession, signature: Signature, rows: int, most: int) -> int:
    """The largest batch, of ``rows`` doubled again and again, that may hold the event loop."""
    most = min(most, _MOST_INLINE_ROWS)
    while rows < most:
        more = min(2 * rows, most)
        if _measure(session, signature, more) > _INLINE_SECONDS:
            break
        rows = more
    return rows


def _join(
    spec: TensorSpec, column: Sequence[Column], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    if spec.datatype.itemsize == 0:
        arrays = [part for part in column if isinstance(part, np.ndarray)]
        return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).reshape(shape)
    raw = column[0] if len(column) == 1 else b"".join(column)  # type: ignore[arg-type]  # no BYTES
    return np.frombuffer(raw, spec.datatype.dtype).reshape(shape)
