"""Which fields of a REST request's body the API does not have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lepton_gateway.rest_bodies import MAX_CHECKED_BYTES, RestBodies, UnknownFields

BODIES = RestBodies()


@pytest.mark.parametrize(
    ("method", "path", "content", "told"),
    [
        ("POST", "/v1/models", {"modelId": "m", "colour": 1}, "colour, known: "),
        ("POST", "/v1/models?x=1", {"model_id": "m", "model": {"labelz": {}}}, "model.labelz, did"),
        ("PATCH", "/v1/models/m", {"descripton": ""}, "descripton, did you mean 'description'?"),
        ("POST", "/v1/models/m:setAlias", {"alia": "a"}, "alia, did you mean 'alias'?"),
        ("POST", "/v1/jobs/j:cancel", {"force": True}, "force, known: name"),
        (
            "POST",
            "/v1/endpoints",
            {"endpoint": {"targets": [{}, {"wait": 1}]}},
            "endpoint.targets[1].wait, did you mean 'weight'?",
        ),
        ("POST", "/v1/models", {"\x1b[31m": 1, "\ud800": 2}, r"\x1b[31m"),
    ],
)
def test_unknown_fields_are_named(method: str, path: str, content: Any, told: str) -> None:
    """By their place in the body, with what may have been meant."""
    with pytest.raises(UnknownFields) as caught:
        BODIES.check(method, path, json.dumps(content).encode())
    assert told in caught.value.message
    assert caught.value.message.isascii()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        (
            "POST",
            "/v1/jobs",
            b'{"spec": {"hyperparameters": {"any": {"thing": 1}}, "labels": {"a": "b"}}}',
        ),
        ("POST", "/v1/models/m:setAlias", b""),
        ("POST", "/v1/models", b"{not json"),
        ("POST", "/v1/models", b"[" * 100_000),
        ("POST", "/v1/models", b'[{"colour": 1}]'),
        ("POST", "/v1/nothing", b'{"colour": 1}'),
        ("DELETE", "/v1/models/m", b'{"colour": 1}'),
        ("POST", "/v1/models", b'{"colour": "' + b"x" * MAX_CHECKED_BYTES + b'"}'),
    ],
    ids=["known", "empty", "no JSON", "deep", "list", "no path", "no body", "large"],
)
def test_what_others_judge_is_let_through(method: str, path: str, body: bytes) -> None:
    """Also Structs, whose fields are free."""
    BODIES.check(method, path, body)
