"""One table: what a status becomes."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import trustme

from lepton.api.storage.v1 import storage_pb2
from lepton.client import (
    ApiError,
    AuthenticationError,
    Client,
    InvalidRequestError,
    NotFoundError,
    Profile,
    ProfileError,
    UnavailableError,
    connect,
)
from lepton.client.errors import translated
from tests.unit.sdk.fake_gateway import Gateway, Refusal

CLASSES = {
    "NOT_FOUND": NotFoundError,
    "UNAUTHENTICATED": AuthenticationError,
    "PERMISSION_DENIED": AuthenticationError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": UnavailableError,
    "INVALID_ARGUMENT": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "FAILED_PRECONDITION": InvalidRequestError,
    "ALREADY_EXISTS": InvalidRequestError,
    "ABORTED": ApiError,
    "RESOURCE_EXHAUSTED": ApiError,
    "UNIMPLEMENTED": ApiError,
    "INTERNAL": ApiError,
    "DATA_LOSS": ApiError,
}


@pytest.mark.parametrize("status", CLASSES)
def test_each_status_has_its_class_and_keeps_what_the_server_said(
    status: str, gateway: Gateway, lepton: Client
) -> None:
    code = grpc.StatusCode[status]
    gateway.refusals["GetModel"] = Refusal(
        code, "SOME_REASON", "the thing; the remedy", {"thing": "x"}
    )
    with pytest.raises(ApiError) as caught:
        lepton.models.get("digits")
    error = caught.value
    assert type(error) is CLASSES[status]
    assert (error.code, error.reason, error.message) == (
        code,
        "SOME_REASON",
        "the thing; the remedy",
    )
    assert error.metadata == {"thing": "x"}
    assert str(error) == "the thing; the remedy"


def test_a_status_without_details_is_its_own_reason(lepton: Client) -> None:
    with pytest.raises(ApiError) as caught, translated():
        lepton.storage.GetUpload(storage_pb2.GetUploadRequest())  # which the fake does not have
    assert caught.value.reason == "UNIMPLEMENTED"


def test_nobody_there(gateway: Gateway) -> None:
    profile = Profile(address="localhost:1", ca_file=gateway.profile.ca_file)
    with Client(profile) as client, pytest.raises(UnavailableError):
        list(client.models.list())


def test_a_gateway_of_another_authority(gateway: Gateway, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with (
        connect(address=gateway.address, ca_file=other) as client,
        pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        list(client.models.list())


@pytest.mark.parametrize(
    ("content", "told"), [(None, "No such file"), ("not a certificate", "no PEM certificate")]
)
def test_a_ca_file_that_is_none(content: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ProfileError, match=told) as caught:
        connect(address="localhost:8443", ca_file=path)
    assert str(path) in str(caught.value)
