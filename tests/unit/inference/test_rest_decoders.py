"""Whatever a REST request says, it is answered or refused, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inference_plane import Plane
from tests.inference_requests import JSON, PATH_PARTS, rest_requests

REFUSALS = {400, 404, 405, 413, 429, 501}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    return Plane(tmp_path_factory.mktemp("models"))


@settings(max_examples=400, deadline=None)
@given(asked=rest_requests())
def test_any_rest_request_is_answered_or_refused(
    plane: Plane, asked: tuple[str, bytes, dict[str, bytes]]
) -> None:
    """With the reason and the remedy as JSON, whatever lies."""
    path, body, headers = asked
    answer = plane.ask("POST", path, headers, [body])
    assert answer.status in {200, *REFUSALS}, answer
    if answer.status != 200:
        assert json.loads(answer.body)["reason"] not in ("INTERNAL", "INFERENCE_FAILED")


@settings(max_examples=200, deadline=None)
@given(
    verb=st.sampled_from(["GET", "POST", "PUT"]),
    parts=st.lists(
        st.sampled_from(PATH_PARTS),
        max_size=6,
    ),
    body=st.binary(max_size=20) | st.just(b"{}"),
)
def test_any_path_is_answered_or_refused(
    plane: Plane, verb: str, parts: list[str], body: bytes
) -> None:
    """Those of the protocol and those that are like them."""
    answer = plane.ask(verb, "/" + "/".join(["v2", *parts]), {}, [body])
    assert answer.status in {200, *REFUSALS}, answer


@settings(max_examples=300, deadline=None)
@given(
    model=st.sampled_from(["linear", "text", "words", "ragged", "fixed", "identity-uint64"]),
    way=st.sampled_from(["generate", "generate_stream"]),
    body=st.dictionaries(
        st.sampled_from(["image", "x", "id", "parameters", "priority", "sequence_id", "mine"]),
        JSON,
        max_size=4,
    ),
)
def test_any_flat_object_is_answered_or_refused(
    plane: Plane, model: str, way: str, body: dict[str, Any]
) -> None:
    """Whatever stands for inputs and parameters."""
    answer = plane.ask("POST", f"/v2/models/{model}/{way}", {}, [json.dumps(body).encode()])
    assert answer.status in {200, *REFUSALS}, answer
    if answer.status != 200:
        assert json.loads(answer.body)["reason"] not in ("INTERNAL", "INFERENCE_FAILED")
