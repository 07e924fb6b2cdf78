"""What an ONNX file takes and gives, as the registry wants to know it.

Apart from the rest of the SDK: it takes the package ``onnx``, which clients do without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton.client.errors import ModelFileError

# onnx.TensorProto.DataType to the datatypes of the Open Inference Protocol.
_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}


def signature_of(path: Path) -> pb.Signature:
    """The inputs and outputs of an ONNX file; -1 where a request chooses the size.

    Raises:
        ModelFileError: It cannot be read, is no ONNX model, or takes or gives what no request
            can carry; or ``onnx`` is not installed.
    """
    try:
        import onnx  # noqa: PLC0415  an optional package, and slow to import
    except ImportError:
        raise ModelFileError(
            "reading ONNX files takes the package 'onnx', which is not installed: pip install onnx",
            reason="PACKAGE_MISSING",
        ) from None
    try:
        # Weights in other files are not read: the server refuses them, and says why.
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelFileError(
            f"cannot read {path}: {error.strerror or error}", reason="FILE_UNREADABLE"
        ) from None
    except Exception:  # whatever a parser says of any bytes
        raise ModelFileError(f"{path} is not an ONNX model") from None
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if not inputs or not model.graph.output:
        raise ModelFileError(f"{path} is not an ONNX model: it has no inputs or no outputs")
    return pb.Signature(
        inputs=[_spec(value, path) for value in inputs],
        outputs=[_spec(value, path) for value in model.graph.output],
    )


def _spec(value: Any, path: Path) -> pb.TensorSpec:
    kind, name = value.type, value.name
    datatype = _DATATYPES.get(kind.tensor_type.elem_type)
    if not kind.HasField("tensor_type") or datatype is None:
        raise ModelFileError(
            f"{path}: '{name}' is not a tensor of numbers, truth values or text, and nothing else "
            "can be served"
        )
    shape = [
        dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.tensor_type.shape.dim
    ]
    return pb.TensorSpec(name=name, datatype=datatype, shape=shape)
