"""Endpoints as mappings, which files are read as: a value is what it says, or is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton.client import SpecError, endpoint_from_mapping


@pytest.mark.parametrize("value", ["OWN_PROCESS", 3, 3.0])
def test_a_value_of_an_enum_has_a_name_and_a_number(value: Any) -> None:
    """As JSON writes them."""
    endpoint = endpoint_from_mapping({"execution": {"isolation": value}})
    assert endpoint.execution.isolation == pb.Execution.OWN_PROCESS


@pytest.mark.parametrize("value", [3.5, True, "3", "own_process", 9, math.inf, math.nan, [3], {}])
def test_what_is_no_value_of_an_enum_is_refused(value: Any) -> None:
    """Rather than rounded, and with the names of those that are."""
    with pytest.raises(SpecError, match=r"execution\.isolation: .* AUTO, SHARED, OWN_PROCESS$"):
        endpoint_from_mapping({"execution": {"isolation": value}})


@pytest.mark.parametrize(
    ("mapping", "path"),
    [
        ({"execution": {"instances": 1.5}}, "execution.instances"),
        ({"execution": {"instances": True}}, "execution.instances"),
        ({"execution": {"instances": math.inf}}, "execution.instances"),
        ({"execution": {"devices": [0, 0.5]}}, "execution.devices"),
        ({"execution": {"cuda_graphs": 1}}, "execution.cuda_graphs"),
        ({"targets": [{"weight": 0.5}]}, r"targets\[0\].weight"),
        ({"responseCacheBytes": 4096.5}, "responseCacheBytes"),
        ({"shadow": {"percent": True}}, "shadow.percent"),
        ({"shadow": {"percent": "half"}}, "shadow.percent"),
    ],
)
def test_a_value_of_another_kind_is_refused(mapping: dict[str, Any], path: str) -> None:
    """The field is named."""
    with pytest.raises(SpecError, match=rf"{path}: .* is not "):
        endpoint_from_mapping(mapping)
