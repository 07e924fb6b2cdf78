"""The SDK: a small typed facade over the generated stubs.

from lepton.client import connect

with connect() as lepton:                      # the profile that `lepton up` wrote
    for model in lepton.models.list():
        print(model.name)
    scores = lepton.endpoints.infer("digits", {"images": images})["probabilities"]
"""

from lepton.client._client import Client, connect
from lepton.client.code import LocalCode, push_code
from lepton.client.errors import (
    ApiError,
    AuthenticationError,
    EndpointFailedError,
    EvaluationError,
    InvalidRequestError,
    LeptonError,
    ModelFileError,
    NotFoundError,
    ProfileError,
    SpecError,
    TensorError,
    TransferError,
    UnavailableError,
)
from lepton.client.profile import (
    Profile,
    config_path,
    current_profile,
    delete_profile,
    gateway_address,
    load_profile,
    save_profile,
)
from lepton.client.sequences import SequenceStep
from lepton.client.specs import endpoint_fields, endpoint_from_mapping, spec_from_mapping

__all__ = [
    "ApiError",
    "AuthenticationError",
    "Client",
    "EndpointFailedError",
    "EvaluationError",
    "InvalidRequestError",
    "LeptonError",
    "LocalCode",
    "ModelFileError",
    "NotFoundError",
    "Profile",
    "ProfileError",
    "SequenceStep",
    "SpecError",
    "TensorError",
    "TransferError",
    "UnavailableError",
    "config_path",
    "connect",
    "current_profile",
    "delete_profile",
    "endpoint_fields",
    "endpoint_from_mapping",
    "gateway_address",
    "load_profile",
    "push_code",
    "save_profile",
    "spec_from_mapping",
]
