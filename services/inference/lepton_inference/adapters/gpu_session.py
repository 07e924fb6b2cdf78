"""A model on GPUs: an ONNX Runtime session for each instance, its inputs and outputs bound.

A batch is joined right into page-locked memory where ONNX Runtime gives some, which the GPU reads
without another copy. With CUDA graphs, each size of batch has buffers on the GPU that stay, and the
launches that were recorded once are replayed; a batch between two sizes is padded to the larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnxruntime as ort

from lepton_inference.adapters.devices import CUDA
from lepton_inference.adapters.model_limits import return_free_memory
from lepton_inference.adapters.onnx_session import join, run_failure
from lepton_inference.placement import Placement
from lepton_inference.signature import Signature, Tails
from lepton_inference.tensors import Column

Array = np.ndarray[Any, Any]


class PinnedFeeds(dict[str, Array]):
    """Inputs by name, each a view of page-locked memory."""

    def __init__(self) -> None:
        super().__init__()
        self.values_by_name: dict[str, ort.OrtValue] = {}


class GpuInstance:
    """One session on one GPU. Not for two threads at a time."""

    def __init__(self, session: ort.InferenceSession, signature: Signature) -> None:
        self._session = session
        self._signature = signature

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """The outputs, in memory of the host."""
        if _is_unbound(self._signature):
            return self._session.run(None, feeds)  # type: ignore[no-any-return]  # untyped
        binding = self._session.io_binding()
        pinned = feeds.values_by_name if isinstance(feeds, PinnedFeeds) else {}
        for name, array in feeds.items():
            if name in pinned:
                binding.bind_ortvalue_input(name, pinned[name])
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for spec in self._signature.outputs:
            binding.bind_output(spec.name)
        self._session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()  # type: ignore[no-any-return]  # as above

    def close(self) -> None:
        """Frees the session."""
        del self._session


class GraphInstance(GpuInstance):
    """One session whose batches are CUDA graphs.

    Args:
        session: Opened with CUDA graphs.
        signature: With fixed shapes but for the batch.
        device: Its GPU.
        sizes: Rows of the batches to capture, ascending.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        signature: Signature,
        device: int,
        sizes: Sequence[int],
    ) -> None:
        super().__init__(session, signature)
        self._device = device
        self._sizes = sizes
        self._captured: dict[int, tuple[Any, list[ort.OrtValue], list[ort.OrtValue]]] = {}
        # ONNX Runtime keeps a captured graph for the thread that captured it.
        self._thread = ThreadPoolExecutor(1, "cuda-graph")

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """See :meth:`GpuInstance.run`."""
        return self._thread.submit(self._run, feeds).result()

    def capture(self) -> None:
        """Captures every size, so that no request waits for it."""
        for size in self._sizes:
            self.run(
                {
                    spec.name: np.zeros(self._shape(spec.shape, size), spec.datatype.dtype)
                    for spec in self._signature.inputs
                }
            )

    def close(self) -> None:
        """Frees the buffers, then the session."""
        self._thread.shutdown()
        self._captured.clear()
        super().close()

    def _run(self, feeds: dict[str, Array]) -> list[Array]:
        batched = self._signature.batched
        rows = len(next(iter(feeds.values()))) if batched else 1
        size = next(size for size in self._sizes if size >= rows) if batched else 1
        binding, inputs, outputs = self._buffers(size)
        for spec, value in zip(self._signature.inputs, inputs, strict=True):
            array = feeds[spec.name]
            if batched and size > rows:
                padding = np.zeros((size - rows, *array.shape[1:]), array.dtype)
                array = np.concatenate([array, padding])
            value.update_inplace(array)
        options = ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(size))
        self._session.run_with_iobinding(binding, options)
        arrays = [value.numpy() for value in outputs]
        return [array[:rows] for array in arrays] if batched else arrays

    def _buffers(self, size: int) -> tuple[Any, list[ort.OrtValue], list[ort.OrtValue]]:
        if size not in self._captured:
            binding = self._session.io_binding()
            inputs = [self._on_gpu(spec, size) for spec in self._signature.inputs]
            outputs = [self._on_gpu(spec, size) for spec in self._signature.outputs]
            for spec, value in zip(self._signature.inputs, inputs, strict=True):
                binding.bind_ortvalue_input(spec.name, value)
            for spec, value in zip(self._signature.outputs, outputs, strict=True):
                binding.bind_ortvalue_output(spec.name, value)
            self._captured[size] = binding, inputs, outputs
        return self._captured[size]

    def _on_gpu(self, spec: Any, size: int) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(
            self._shape(spec.shape, size), spec.datatype.dtype.type, "cuda", self._device
        )

    def _shape(self, shape: tuple[int, ...], size: int) -> tuple[int, ...]:
        return (size, *shape[1:]) if self._signature.batched else shape


class GpuSession:
    """One model on GPUs. A Runner for the batcher."""

    def __init__(
        self, instances: Sequence[GpuInstance], signature: Signature, placement: Placement
    ) -> None:
        self._instances = instances
        self._pinned = None if _is_unbound(signature) else pinned_memory()
        self.signature = signature
        self.placement = replace(placement, pinned=self._pinned is not None)
        self._free: SimpleQueue[GpuInstance] = SimpleQueue()
        for instance in instances:
            self._free.put(instance)

    def join(
        self, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
    ) -> dict[str, Array]:
        """See :class:`lepton_inference.batch.Runner`."""
        if self._pinned is None:
            return join(self.signature, columns, rows, tails)
        feeds = PinnedFeeds()
        for spec, column, tail in zip(self.signature.inputs, columns, tails, strict=True):
            shape = (rows, *tail) if self.signature.batched else tail
            value = ort.OrtValue.ortvalue_from_shape_and_type(
                shape, spec.datatype.dtype.type, memory_info=self._pinned
            )
            array = value.numpy()
            flat, end = array.reshape(-1).view(np.uint8), 0
            for part in column:
                raw = np.frombuffer(part, np.uint8)
                flat[end : end + raw.nbytes] = raw
                end += raw.nbytes
            feeds[spec.name] = array
            feeds.values_by_name[spec.name] = value
        return feeds

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """See :class:`lepton_inference.batch.Runner`."""
        instance = self._free.get()
        try:
            return instance.run(feeds)
        # As on the CPU.
        except Exception as error:
            raise run_failure(error) from error
        finally:
            self._free.put(instance)

    def give_back_memory(self) -> None:
        """Nothing: a GPU's memory is bounded by its execution provider."""

    def close(self) -> None:
        """Gives the sessions' memory back."""
        for instance in self._instances:
            instance.close()
        self._instances = ()
        return_free_memory()


def pinned_memory() -> Any:
    """Where page-locked memory is allocated; None where ONNX Runtime offers none to write to."""
    for device in ort.get_ep_devices():
        if device.ep_name == CUDA:
            memory = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
            return memory if memory is not None and _is_writable(memory) else None
    return None


def _is_writable(memory: Any) -> bool:
    """Whether arrays of that memory are views of it, so that what is written there is there."""
    try:
        value = ort.OrtValue.ortvalue_from_shape_and_type((1,), np.uint8, memory_info=memory)
        value.numpy()[0] = 7
        return bool(value.numpy()[0] == 7)
    # Whatever an execution provider raises: inputs are bound from other memory then.
    except Exception:
        return False


def _is_unbound(signature: Signature) -> bool:
    """Whether a tensor is of a kind that numpy has no arrays of, and ONNX Runtime no binding."""
    tensors = (*signature.inputs, *signature.outputs)
    return any(spec.datatype.name in ("BYTES", "BF16") for spec in tensors)
