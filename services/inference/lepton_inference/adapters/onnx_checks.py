"""What is refused of an ONNX file before ONNX Runtime sees it.

ONNX Runtime finds most faults itself: cycles, missing opsets, operators that nobody has. Here is
what it would act on: files that the model names, and sizes that it claims. To be called in a
process that may die of the file (:mod:`lepton_inference.adapters.model_worker`).
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from lepton_inference.model_errors import ModelInvalid
from lepton_mesh.onnx_parts import nodes_of, tensors_of

_MOST_ELEMENTS = 1 << 40
"""Of one tensor; what claims more lies."""
_COMPILED = "EPContext"
"""The operator that holds a graph compiled for one device, or the path of a file with it."""
_ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.BOOL: 1,
    **dict.fromkeys((TensorProto.INT8, TensorProto.UINT8), 1),
    **dict.fromkeys((TensorProto.INT16, TensorProto.UINT16), 2),
    **dict.fromkeys((TensorProto.INT32, TensorProto.UINT32), 4),
    **dict.fromkeys((TensorProto.INT64, TensorProto.UINT64), 8),
}


def check_file(path: Path) -> ModelProto:
    """The model in the file, its external data not read.

    Raises:
        ModelInvalid: It does not parse (too deeply nested graphs do not), weights lie outside of
            the model's folder or are of another size than they say, or it holds a graph
            compiled for some device.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    # The parser's error class differs between protobuf's implementations.
    except Exception:
        raise ModelInvalid(
            "the artifact is not an ONNX model: it does not parse; it may be cut off, or its "
            "graphs be nested too deeply"
        ) from None
    folder = path.parent.resolve()
    for node in nodes_of(model):
        if node.op_type == _COMPILED:
            raise ModelInvalid(
                f"the node '{node.name}' holds a graph that was compiled for one device "
                f"({_COMPILED}); export the model uncompiled"
            )
    for tensor in tensors_of(model):
        _check_size(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_place(tensor, folder)
    return model


def _check_size(tensor: TensorProto) -> None:
    if any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > _MOST_ELEMENTS:
        raise ModelInvalid(
            f"the weights '{tensor.name}' claim the shape {list(tensor.dims)}, which no memory "
            "holds",
            tensor=tensor.name,
        )
    item = _ITEM_BYTES.get(tensor.data_type)
    if item is None or not tensor.HasField("raw_data"):
        return
    if len(tensor.raw_data) != item * math.prod(tensor.dims):
        raise ModelInvalid(
            f"the weights '{tensor.name}' are {len(tensor.raw_data)} bytes, and the shape "
            f"{list(tensor.dims)} takes {item * math.prod(tensor.dims)}",
            tensor=tensor.name,
        )


def _check_place(tensor: TensorProto, folder: Path) -> None:
    """External weights may lie beside the model, in its folder, and nowhere else."""
    place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    inside = (
        place
        and "\0" not in place
        and not Path(place).is_absolute()
        # With every link followed, those inside of the folder too.
        and (target := (folder / place).resolve()).is_relative_to(folder)
        # Runtimes have names for weights in their own memory ("*/_ORT_MEM_ADDR_/*"): no file.
        and target.is_file()
    )
    if not inside:
        raise ModelInvalid(
            f"the weights '{tensor.name}' lie in another file ({place!r}), which is not in the "
            "model's folder; export the model with its weights inside",
            tensor=tensor.name,
        )
