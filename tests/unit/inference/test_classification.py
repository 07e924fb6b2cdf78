"""The largest values of an output as text, as Triton's classification extension writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lepton_inference.batch import Batch
from lepton_inference.classification import MOST_CLASSES, classified
from lepton_inference.parameters import ParameterInvalid, classes_of
from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorSpec, bfloat16_bits
from lepton_mesh.errors import LeptonError


def ranked(
    rows: Any,
    count: int,
    datatype: str = "FP32",
    labels: tuple[str, ...] = (),
    batched: bool = True,
) -> Any:
    array = np.array(rows)
    array = bfloat16_bits(array) if datatype == "BF16" else array.astype(DATATYPES[datatype].dtype)
    spec = TensorSpec("y", DATATYPES[datatype], (-1,) * array.ndim)
    batch, first = classified(
        (Batch([array], len(array), batched), 0), len(array), [spec], {"y": count}, labels
    )
    assert first == 0
    return batch.arrays[0].tolist()


def test_the_largest_come_first_and_equal_ones_in_order() -> None:
    """Six digits after the point, as C writes floating-point numbers."""
    assert ranked([[0.5, 2, 0.5], [3, 1, 3]], 2) == [
        ["2.000000:1", "0.500000:0"],
        ["3.000000:0", "3.000000:2"],
    ]


def test_more_than_there_are_is_all_there_are() -> None:
    """A count is an upper bound."""
    assert ranked([[1, 2]], 99) == [["2.000000:1", "1.000000:0"]]


def test_more_than_may_be_written_at_a_time_are_refused() -> None:
    """However few they are of each row."""
    rows = np.zeros((MOST_CLASSES // 8, 9), np.float32)
    assert len(ranked(rows, 8)) == len(rows)
    with pytest.raises(ParameterInvalid, match="ask for fewer"):
        ranked(rows, 9)


@pytest.mark.parametrize(
    ("datatype", "largest"),
    [
        ("UINT8", "255:1"),
        ("UINT64", "18446744073709551615:1"),
        ("INT8", "127:1"),
        ("INT64", "9223372036854775807:1"),
    ],
)
def test_whole_numbers_are_written_whole(datatype: str, largest: str) -> None:
    """Also the smallest, whose negation the type does not hold."""
    limits = np.iinfo(DATATYPES[datatype].dtype)
    rows = np.array([[limits.min, limits.max]], DATATYPES[datatype].dtype)
    assert ranked(rows, 2, datatype) == [[largest, f"{limits.min}:0"]]


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_floats_of_every_width(datatype: str) -> None:
    """What is no number is never the largest."""
    assert ranked([[np.nan, -1.5, np.inf, 2]], 4, datatype) == [
        ["inf:2", "2.000000:3", "-1.500000:1", "nan:0"]
    ]


def test_labels_count_where_there_is_one_for_each() -> None:
    """Otherwise they are of something else."""
    assert ranked([[1, 2]], 1, labels=("cat", "dog")) == [["2.000000:1:dog"]]
    assert ranked([[1, 2]], 1, labels=("cat",)) == [["2.000000:1"]]


def test_more_dimensions_are_taken_as_one() -> None:
    """In a batch those of each row, without one all of them."""
    assert ranked([[[1, 2], [4, 3]]], 2) == [["4.000000:2", "3.000000:3"]]
    assert ranked([[1, 2], [4, 3]], 2, batched=False) == ["4.000000:2", "3.000000:3"]


def test_only_a_requests_own_rows_and_outputs() -> None:
    """The rest of the batch is others', and other outputs stay as they are."""
    arrays = [np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3, dtype=np.int64)[:, None]]
    specs = [
        TensorSpec("y", DATATYPES["FP32"], (-1, 2)),
        TensorSpec("n", DATATYPES["INT64"], (-1, 1)),
    ]
    batch, first = classified((Batch(arrays, 3, True), 1), 1, specs, {"y": 1})
    assert (batch.rows, first) == (1, 0)
    assert batch.arrays[0].tolist() == [["3.000000:1"]]
    assert batch.arrays[1].tolist() == [[1]]


@pytest.mark.parametrize("count", [-1, True, 1.5, "2"])
def test_a_count_that_is_none_is_refused(count: object) -> None:
    """0 asks for the output itself."""
    with pytest.raises(LeptonError) as caught:
        classes_of("y", {"classification": count})
    assert caught.value.reason == "PARAMETER_INVALID"
    assert classes_of("y", {"classification": 0}) == classes_of("y", {}) == 0


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_what_has_no_order_is_refused_before_it_runs(datatype: str) -> None:
    """By the output's name."""
    x = TensorSpec("x", DATATYPES["FP32"], (-1, 1))
    signature = Signature((x,), (TensorSpec("y", DATATYPES[datatype], (-1, 1)),), True)
    request = InferenceRequest(
        "m", "", [InputTensor("x", "FP32", (1, 1), bytes(4))], ["y"], {"y": 1}
    )
    with pytest.raises(LeptonError, match="'y'") as caught:
        signature.check(request, 1)
    assert caught.value.reason == "PARAMETER_INVALID"
