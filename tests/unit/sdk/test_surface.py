"""What others may build on."""

from __future__ import annotations

import inspect

import lepton.client
from lepton.client import Client
from lepton.client.errors import ApiError, LeptonError

SURFACE = {
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
}
METHODS = {
    "data": {
        "delete",
        "fetch",
        "fetch_artifact",
        "list",
        "push",
        "push_artifact",
        "version",
        "versions",
    },
    "jobs": {
        "cancel",
        "create",
        "delete",
        "get",
        "list",
        "logs",
        "pause",
        "recipes",
        "resume",
        "watch",
    },
    "models": {
        "compare",
        "delete",
        "delete_alias",
        "evaluation",
        "explanations",
        "fetch",
        "get",
        "list",
        "papers",
        "predictions",
        "push",
        "set_alias",
        "version",
        "versions",
    },
    "endpoints": {
        "create",
        "delete",
        "generate",
        "get",
        "infer",
        "list",
        "load",
        "metadata",
        "unload",
        "update",
        "wait",
    },
}
STUBS = {"auth", "storage", "training", "registry", "inference", "open_inference"}


def test_the_exports_are_these_and_no_others() -> None:
    assert set(lepton.client.__all__) == SURFACE
    assert len(lepton.client.__all__) == len(SURFACE)
    assert all(hasattr(lepton.client, name) for name in SURFACE)


def test_a_client_has_these_methods_and_no_others(lepton: Client) -> None:
    for part, methods in METHODS.items():
        found = {
            name
            for name, _ in inspect.getmembers(getattr(lepton, part), inspect.ismethod)
            if not name.startswith("_")
        }
        assert found == methods, part
    assert all(hasattr(lepton, name) for name in STUBS)


def test_every_error_is_a_lepton_error_with_a_page_in_the_tree() -> None:
    import lepton.client.errors as module

    errors = [getattr(lepton.client, name) for name in SURFACE if name.endswith("Error")]
    assert all(issubclass(error, LeptonError) for error in errors)
    assert all(error.__name__ in str(module.__doc__) for error in errors)
    assert issubclass(lepton.client.NotFoundError, ApiError)
