"""The classification extension: the largest values of an output, as text.

An output for which a request gives the parameter ``classification`` becomes BYTES
``value:index`` or ``value:index:label``, largest first, equal values in the order of their index
and NaN last; values are written as C's ``%f`` does
(Triton's ``docs/protocol/extension_classification.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_inference.batch import Batch, Outcome
from lepton_inference.parameters import ParameterInvalid
from lepton_inference.tensors import TensorSpec, numbers

MOST_CLASSES = 1 << 16
"""Of all rows of an output. Each becomes a text of its own: a million take a second."""


def classified(
    outcome: Outcome,
    rows: int,
    specs: Sequence[TensorSpec],
    classes: Mapping[str, int],
    labels: Sequence[str] = (),
) -> Outcome:
    """One request's outputs, those of ``classes`` as text.

    Args:
        outcome: Where they are.
        rows: Of the request.
        specs: The model's outputs.
        classes: Output -> the most classes wanted.
        labels: Names of the classes; they count for outputs that have as many values a row.

    Returns:
        A batch of the request alone, whose object arrays are [rows, classes], or [classes] where
        the model does not batch.

    Raises:
        ParameterInvalid: More than ``MOST_CLASSES`` of an output are wanted.
    """
    batch, first = outcome
    arrays = []
    for spec, whole in zip(specs, batch.arrays, strict=True):
        array = whole[first : first + rows] if batch.batched else whole
        count = classes.get(spec.name, 0)
        if count:
            values = numbers(array, spec.datatype)
            table = values.reshape(rows if batch.batched else 1, -1)
            wanted = table.shape[0] * min(count, table.shape[1])
            if wanted > MOST_CLASSES:
                raise ParameterInvalid(
                    f"the parameter 'classification' asks for {wanted} classes of output "
                    f"'{spec.name}'; {MOST_CLASSES} are given at a time, so ask for fewer, or for "
                    "the output itself",
                    parameter="classification",
                )
            named = labels if len(labels) == table.shape[1] else ()
            array = _largest(table, min(count, table.shape[1]), named)
            if not batch.batched:
                array = array[0]
        arrays.append(array)
    return Batch(arrays, rows, batch.batched), 0


def _largest(
    table: np.ndarray[Any, Any], count: int, labels: Sequence[str]
) -> np.ndarray[Any, Any]:
    """The ``count`` largest values of each row as text; an object array [rows, count]."""
    size = table.shape[1]
    ranked = np.where(np.isnan(table), -np.inf, table) if table.dtype.kind == "f" else table
    # Ascending, stable, of the mirrored row: read backwards it is descending, and stable again.
    order = size - 1 - np.argsort(ranked[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count]
    text = "{:f}:{}" if table.dtype.kind == "f" else "{}:{}"
    answer = np.empty(order.shape, dtype=object)
    for row, indices in enumerate(order):
        for place, index in enumerate(indices):
            said = text.format(table[row, index], index)
            answer[row, place] = f"{said}:{labels[index]}" if labels else said
    return answer
