"""A model in memory: opened with ONNX Runtime, its signature read, its batches joined and run."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from lepton_inference.adapters.bfloat16 import Bfloat16Session, has_bfloat16, takes_text
from lepton_inference.adapters.devices import Providers
from lepton_inference.adapters.measurement import is_memory_error, samples
from lepton_inference.adapters.model_limits import return_free_memory
from lepton_inference.adapters.run_watch import RunWatch
from lepton_inference.model_errors import (
    InputRefused,
    ModelInvalid,
    ProviderMissing,
    RunUnwanted,
)
from lepton_inference.placement import Placement
from lepton_inference.settings import EndpointInvalid
from lepton_inference.signature import Signature, Tails
from lepton_inference.tensors import BY_ONNX, Column, TensorSpec

_LABELS = ("labels", "class_names")
"""Where a model's metadata may name its classes."""
_REFUSED = re.compile(r"while running (\w+) node\. Name:'(.*?)' Status Message: ([^\n]*)")
"""A run that failed at a node, in ONNX Runtime's words."""
_NOT_ITS_INPUT = re.compile(r"CUDA|CUDNN|CUBLAS|TensorRT|NOT_IMPLEMENTED", re.IGNORECASE)
"""A node fails so whatever it is given: the device did, or nobody has written the operator."""
_WHERE = re.compile(
    r"/\S+\.(cc|h):\d+ .*?\)( const)? |\S+\.(cc|h):\d+ \w+ |\[ONNXRuntimeError\] : \d+ : \w+ : "
)
"""Where in its source ONNX Runtime noticed."""
_LONGEST_WORDS = 200
_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:|\S+\.(cc|h):\d+ .*\) "
)
"""What ONNX Runtime says of itself around what it says of the model."""


class OnnxSession:
    """One model in memory, warmed up. A Runner for the batcher."""

    def __init__(
        self, session: ort.InferenceSession, signature: Signature, placement: Placement
    ) -> None:
        self._session: ort.InferenceSession | None = session
        self._watch = RunWatch()
        self.signature = signature
        self.placement = placement

    def join(
        self, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
    ) -> dict[str, np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.Runner`."""
        return join(self.signature, columns, rows, tails)

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.Runner`."""
        return self._run(feeds, None)

    def run_while(
        self, feeds: dict[str, np.ndarray[Any, Any]], wanted: Callable[[], bool]
    ) -> list[np.ndarray[Any, Any]]:
        """See :class:`lepton_inference.batch.EndableRunner`: it ends between two nodes."""
        with self._watch.during(wanted) as options:
            try:
                return self._run(feeds, options)
            except Exception:
                if options.terminate:
                    raise RunUnwanted from None
                raise

    def _run(
        self, feeds: dict[str, np.ndarray[Any, Any]], options: ort.RunOptions | None
    ) -> list[np.ndarray[Any, Any]]:
        if self._session is None:
            raise RuntimeError("the session was closed while its queue was not empty")
        try:
            return self._session.run(None, feeds, options)  # type: ignore[no-any-return]  # untyped library
        # ONNX Runtime's exceptions have no common base.
        except Exception as error:
            raise run_failure(error) from error

    def give_back_memory(self) -> None:
        """Gives back what past batches have left free, which was kept for the next."""
        if self._session is None:
            return
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        with contextlib.suppress(Exception):  # a model may refuse a sample
            feeds = samples(self.signature, 1)
            self._session.run(None, feeds, options)

    def close(self) -> None:
        """Gives the session's memory back, to the system and not only to the allocator."""
        self._session = None
        return_free_memory()


def run_failure(error: Exception) -> Exception:
    """What the failure of a run is: MemoryError, InputRefused, or what it was.

    A model that was loaded computes what it is made for, so that a node which fails was given what
    it is not made for: a size of -1 or 2^62, an index out of bounds, lengths that disagree.
    """
    words = str(error)
    if is_memory_error(error):
        return MemoryError(words)
    node = _REFUSED.search(words)
    if node is None or _NOT_ITS_INPUT.search(words):
        return error
    kind, name, said = node.groups()
    said = _WHERE.sub("", said).strip()[:_LONGEST_WORDS]
    called = f" ('{name}')" if name else ""
    return InputRefused(
        f"the model's operator {kind}{called} refuses what it was given: {said}; send values and "
        "lengths that the model is made for",
        operator=kind,
        node=name,
    )


def open_session(path: Path, providers: Providers, threads: int) -> ort.InferenceSession:
    """Loads the model; checks of the file come before, warming and measuring after.

    Raises:
        ModelInvalid: ONNX Runtime does not load it.
        ProviderMissing: The first of ``providers`` did not load.
        EndpointInvalid: The model cannot run as CUDA graphs.
        MemoryError: There is too little memory.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A thread that spins for its next batch takes the core from whoever brings it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=list(providers))
    # ONNX Runtime's exceptions have no common base.
    except Exception as error:
        if is_memory_error(error):
            raise MemoryError from error
        said = _NOISE.sub("", str(error).splitlines()[0])[:300]
        if "graph capture" in said:
            raise EndpointInvalid(
                f"execution.cuda_graphs cannot be had for this model: {said}",
                field="execution.cuda_graphs",
            ) from None
        raise ModelInvalid(f"ONNX Runtime cannot load the model: {said}") from None
    provider = providers[0] if isinstance(providers[0], str) else providers[0][0]
    # onnxruntime-gpu falls back to the CPU without a word when a CUDA library is missing.
    if provider not in session.get_providers():
        raise ProviderMissing(
            f"a GPU is there and ONNX Runtime loaded without {provider}; install the CUDA and "
            "cuDNN libraries that onnxruntime-gpu names, for TensorRT its libraries too",
            provider=provider,
        )
    if not has_bfloat16(session):
        return session
    if takes_text(session):
        raise ModelInvalid(
            "the model takes BYTES and has BF16 tensors too, and ONNX Runtime cannot be handed "
            "both; let it take and give FP32 or FP16 instead of BF16"
        )
    return Bfloat16Session(session)


def signature_of(session: ort.InferenceSession) -> Signature:
    """What the model takes and gives, batched if its shapes allow it; raises ModelInvalid."""
    inputs = tuple(_spec(node) for node in session.get_inputs())
    outputs = tuple(_spec(node) for node in session.get_outputs())
    if not inputs or not outputs:
        raise ModelInvalid("the model has no input or no output")
    batched = all(spec.shape and spec.shape[0] == -1 for spec in (*inputs, *outputs))
    return Signature(inputs, outputs, batched, _labels(session))


def _labels(session: ort.InferenceSession) -> tuple[str, ...]:
    """The names of the classes in the model's metadata: JSON, or one a line; empty without."""
    said = session.get_modelmeta().custom_metadata_map
    text = next((said[key] for key in _LABELS if key in said), "")
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError):
        labels = text.splitlines()
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return ()
    return tuple(labels)


def join(
    signature: Signature, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
) -> dict[str, np.ndarray[Any, Any]]:
    """The model's inputs by name: for each, the requests' columns one after another."""
    return {
        spec.name: _join(spec, column, (rows, *tail) if signature.batched else tail)
        for spec, column, tail in zip(signature.inputs, columns, tails, strict=True)
    }


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


def _join(
    spec: TensorSpec, column: Sequence[Column], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    if spec.datatype.itemsize == 0:
        arrays = [part for part in column if isinstance(part, np.ndarray)]
        return (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).reshape(shape)
    raw = column[0] if len(column) == 1 else b"".join(column)  # type: ignore[arg-type]  # no BYTES
    return np.frombuffer(raw, spec.datatype.dtype).reshape(shape)
