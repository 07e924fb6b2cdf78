"""A network of ResNet-50's shape with random weights: speed does not depend on what it learned.

He et al., "Deep Residual Learning for Image Recognition" (2015), table 1, with the stride in the
3x3 convolution, and batch normalization folded into the convolutions, as exporters do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 224
CLASSES = 1000
_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def build(path: Path) -> Path:
    """Writes the model to ``path`` unless it is there: 25.5 million parameters, 102 MB.

    Its input is ``images``, FP32 [n, 3, 224, 224]; its output ``logits``, FP32 [n, 1000].
    """
    if path.exists():
        return path
    model = _Model()
    value = model.relu(model.convolution("images", 3, 64, kernel=7, stride=2))
    value = model.add("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (width, blocks) in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            value = model.bottleneck(value, channels, width, stride)
            channels = 4 * width
    value = model.add("GlobalAveragePool", [value])
    value = model.add("Flatten", [value], axis=1)
    weight = model.constant((CLASSES, channels), (1 / channels) ** 0.5)
    bias = model.constant((CLASSES,), 0.01)
    model.add("Gemm", [value, weight, bias], output="logits", transB=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    onnx.save(model.finish(), str(partial))
    partial.rename(path)
    return path


class _Model:
    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        name = output or f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, shape: tuple[int, ...], deviation: float) -> str:
        name = f"weight_{len(self._weights)}"
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def convolution(
        self, value: str, fan_in: int, fan_out: int, *, kernel: int = 1, stride: int = 1
    ) -> str:
        deviation = (1 / (fan_in * kernel * kernel)) ** 0.5
        weight = self.constant((fan_out, fan_in, kernel, kernel), deviation)
        bias = self.constant((fan_out,), 0.01)
        pads = [kernel // 2] * 4
        return self.add("Conv", [value, weight, bias], strides=[stride, stride], pads=pads)

    def relu(self, value: str) -> str:
        return self.add("Relu", [value])

    def bottleneck(self, value: str, fan_in: int, width: int, stride: int) -> str:
        inner = self.relu(self.convolution(value, fan_in, width))
        inner = self.relu(self.convolution(inner, width, width, kernel=3, stride=stride))
        inner = self.convolution(inner, width, 4 * width)
        if stride != 1 or fan_in != 4 * width:
            value = self.convolution(value, fan_in, 4 * width, stride=stride)
        return self.relu(self.add("Add", [inner, value]))

    def finish(self) -> onnx.ModelProto:
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])
        graph = helper.make_graph(self._nodes, "resnet50", [images], [logits], self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
