"""Brings images of any size to one, by a graph that is also what serves them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lepton_training.worker.preprocessing import Graph, Preprocessor

Bytes = npt.NDArray[np.uint8]
PIXELS = "pixels"
"""What the graph gives out."""


class Resizer:
    """From UINT8 images ``[N, h, w]``, or ``[N, h, w, 3]``, to those of one size."""

    def __init__(self, name: str, height: int, width: int, *, how: str, rgb: bool) -> None:
        """``name`` is the graph's input; ``how`` is ``stretch``, ``fit`` or ``fill``."""
        self.graph = _graph(name, height, width, how, rgb)
        self._name = name
        self._preprocessor = Preprocessor(self.graph)

    def __call__(self, images: Bytes) -> Bytes:
        (found,) = self._preprocessor.in_pieces({self._name: images})
        return found


def _graph(name: str, height: int, width: int, how: str, rgb: bool) -> bytes:
    """Bilinear, and where it makes images smaller each pixel is the mean of all that it covers
    (``antialias``), as Pillow does it; on FP32 ``[N, C, h, w]``, rounded."""
    graph = Graph()
    channels = [3] if rgb else []
    raw = graph.input(name, "UINT8", ["batch", "height", "width", *channels])
    pixels = graph.add("Cast", raw, to=1)
    axis = graph.constant([1], np.int64)
    if rgb:
        pixels = graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
    else:
        pixels = graph.add("Unsqueeze", pixels, axis)
    size = graph.constant([height, width], np.int64)
    wanted = size if how == "stretch" else _in_proportion(graph, raw, size, how)
    # No ``axes``, here and where it is padded, and no shapes of what is transposed: ONNX Runtime
    # 1.31 moves the transpositions and then looks for sides that are not there.
    count, depth = graph.add("Shape", raw, end=1), graph.constant([3 if rgb else 1], np.int64)
    sizes = graph.add("Concat", count, depth, wanted, axis=0)
    pixels = graph.add(
        "Resize", pixels, "", "", sizes, antialias=1, exclude_outside=1, mode="linear"
    )
    if how != "stretch":
        pixels = _centered(graph, pixels, wanted, size, how)
    pixels = graph.add(
        "Clip",
        graph.add("Round", pixels),
        graph.constant(0, np.float32),
        graph.constant(255, np.float32),
    )
    if rgb:
        pixels = graph.add("Transpose", pixels, perm=[0, 2, 3, 1])
    else:
        pixels = graph.add("Squeeze", pixels, axis)
    shape: list[int | str] = ["batch", height, width, *channels]
    graph.output(graph.add("Cast", pixels, to=2), PIXELS, "UINT8", shape)
    return graph.build()


def _in_proportion(graph: Graph, raw: str, size: str, how: str) -> str:
    """The size that an image gets that is to lie in ``size`` (``fit``) or to cover it."""
    found = graph.add("Cast", graph.add("Shape", raw, start=1, end=3), to=1)
    ratios = graph.add("Div", graph.add("Cast", size, to=1), found)
    ratio = graph.add("ReduceMin" if how == "fit" else "ReduceMax", ratios, keepdims=0)
    rounded = graph.add("Round", graph.add("Mul", found, ratio))
    return graph.add("Max", graph.add("Cast", rounded, to=7), graph.constant(1, np.int64))


def _centered(graph: Graph, pixels: str, found: str, size: str, how: str) -> str:
    """From the size ``found`` to ``size``: what is missing is black, and what is too much is cut
    off, half at either side."""
    two = graph.constant(2, np.int64)
    if how == "fit":
        missing = graph.add("Sub", size, found)
        before, none = graph.add("Div", missing, two), graph.constant([0, 0], np.int64)
        after = graph.add("Sub", missing, before)
        pads = graph.add("Concat", none, before, none, after, axis=0)
        return graph.add("Pad", pixels, pads, graph.constant(0, np.float32))
    begin = graph.add("Div", graph.add("Sub", found, size), two)
    end = graph.add("Add", begin, size)
    return graph.add("Slice", pixels, begin, end, graph.constant([2, 3], np.int64))
