"""REST's generate and generate_stream at every door that has REST."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from tests.contract.inference_protocol.doors import Server

FIBONACCI = "/v2/models/fibonacci/generate_stream"
WIDE = "wide-fibonacci"
STEPS = 65536
"""Whose events are more than any buffer between here and there."""
_BOUND_SECONDS = 20.0


def whole(sequence: str, **more: Any) -> dict[str, Any]:
    """A request that begins and ends its sequence."""
    names = {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
    return {"x": 1, **names, **more}


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The data of each event, as it comes."""
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: ")
            yield json.loads(line[6:])


def steps_run(client: httpx.Client) -> int:
    """By the wide model, so far."""
    stats = client.get(f"/v2/models/{WIDE}/stats").json()["model_stats"]
    return int(stats[0]["inference_count"])


def test_one_answer_is_one_object(rest_door: Server) -> None:
    """Text and numbers, with a version and without."""
    with rest_door.http() as client:
        answer = client.post("/v2/models/text/generate", json={"x": "über"})
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"model_name": "text", "model_version": "1", "y": "über"}
        two = {"a": [1, 2], "b": [3, 4], "n": 7, "id": "r1"}
        answer = client.post("/v2/models/two/versions/1/generate", json=two)
        assert answer.json() == {
            "model_name": "two",
            "model_version": "1",
            "id": "r1",
            "total": [4.0, 6.0],
            "count": 7,
        }


def test_many_answers_are_events(rest_door: Server) -> None:
    """One for each step, of a model that answers once a single one."""
    with rest_door.http() as client:
        with client.stream("POST", FIBONACCI, json=whole("g", max_steps=5)) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert [event["y"] for event in events(response)] == [1, 2, 3, 5, 8]
        single = client.post("/v2/models/text/generate_stream", json={"x": "a"})
        assert [event["y"] for event in events(single)] == ["a"]


def test_events_come_while_the_model_runs(rest_door: Server) -> None:
    """The first long before the last; and the model stops once nobody reads them."""
    body = whole("lost", max_steps=STEPS) | {"x": [1] * 4096}
    path = f"/v2/models/{WIDE}/generate_stream"
    with rest_door.http() as client, rest_door.http() as other:
        before = steps_run(other)
        with client.stream("POST", path, json=body) as response:
            found = events(response)
            for _ in range(3):
                assert len(next(found)["y"]) == 4096
            assert steps_run(other) - before < STEPS
        deadline = time.monotonic() + _BOUND_SECONDS
        last, now = -1, steps_run(other)
        while last != now:
            assert time.monotonic() < deadline, "it does not stop"
            # Long beside a step: a model that ran on would have been seen to.
            time.sleep(0.2)
            last, now = now, steps_run(other)
        assert now - before < STEPS


def test_refusals_are_answers_of_their_own(rest_door: Server) -> None:
    """With status and reason, also where events were asked for."""
    with rest_door.http() as client:
        for path, body, status, reason in (
            ("linear", {"image": [1]}, 400, "TENSOR_INVALID"),
            ("nobody", {}, 404, "ENDPOINT_NOT_FOUND"),
            ("linear/versions/9", {"image": [1] * 4}, 404, "VERSION_NOT_SERVED"),
            ("fibonacci", whole("g", max_steps=10**6), 400, "PARAMETER_INVALID"),
        ):
            answer = client.post(f"/v2/models/{path}/generate_stream", json=body)
            assert (answer.status_code, answer.json()["reason"]) == (status, reason), path
            assert answer.headers["content-type"] == "application/json"
        once = client.post("/v2/models/fibonacci/generate", json=whole("g"))
        assert (once.status_code, once.json()["reason"]) == (501, "MODEL_DECOUPLED")
        wrong = client.get(FIBONACCI)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_the_extension_is_named(rest_door: Server) -> None:
    """A server without REST has it not: see the test of all extensions."""
    with rest_door.http() as client:
        assert "generate" in client.get("/v2").json()["extensions"]
