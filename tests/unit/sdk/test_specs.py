"""Endpoints as mappings, which files are read as: a value is what it says, or is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton.api.training.v1 import training_pb2
from lepton.client import SpecError, endpoint_from_mapping, spec_from_mapping


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


@pytest.mark.parametrize(
    ("mapping", "fields"),
    [
        ({"shadows": {}}, "the fields are name, targets, batching, description, labels, etag, "),
        ({"targets": [{"version": 3}]}, "fields of targets[0] are model_version, weight"),
        ({"shadow": "models/m/versions/1"}, "which are model_version, percent, tolerance"),
    ],
)
def test_fields_that_only_servers_write_are_not_offered(
    mapping: dict[str, Any], fields: str
) -> None:
    """Where one is unknown, those are named that somebody may write."""
    with pytest.raises(SpecError) as caught:
        endpoint_from_mapping(mapping)
    assert fields in str(caught.value)


def test_what_a_server_has_written_may_be_sent_back() -> None:
    """So that an endpoint may be read, edited and updated."""
    endpoint = endpoint_from_mapping({"state": "READY", "targets": [{"sha256": "5" * 64}]})
    assert endpoint.state == pb.Endpoint.READY


def test_what_is_right_is_kept_beside_what_is_wrong() -> None:
    """So that a server may say what it finds wrong there."""
    shared = {"cpuz": 1, "cpus": 2}
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(
            {"recipe": "cnn", "seed": "x", "labls": {}, "resources": shared, "resourcess": shared}
        )
    assert caught.value.rest == training_pb2.JobSpec(
        recipe="cnn", resources=training_pb2.Resources(cpus=2)
    )
    with pytest.raises(SpecError) as caught:
        endpoint_from_mapping({"targets": [3, {"weight": 5, "wait": 1}]})
    assert caught.value.rest == pb.Endpoint(targets=[pb.Target(weight=5)])
