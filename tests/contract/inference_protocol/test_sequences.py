"""Models that remember, asked by Triton's own clients at every door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.contract.inference_protocol.doors import Server

CLIENT = Path(__file__).with_name("sequence_client.py")


def ask(kind: str, door: Server) -> dict[str, Any]:
    """What the client saw."""
    done = subprocess.run(
        [sys.executable, str(CLIENT), kind, door.as_json()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_sequences_over_grpc(door: Server) -> None:
    """Thirty-two interleaved ones, unary and streamed; generation; refusals; what is reported."""
    seen = ask("grpc", door)
    assert seen["unary"] < 1e-6
    assert seen["stream"] < 1e-6
    assert seen["generated"] == [
        [["g", 1], ["g", 2], ["g", 3], ["g", 5], ["g", 8]],
        [["g", 1], ["g", 2], ["g", 3], ["g", 5], ["g", 8]],
        [["g", 1], ["g", 2], ["g", None]],
        [seen["generated"][3][0]],
    ]
    assert seen["generated"][3][0].startswith("there is no sequence 'g1' of yours")
    refused = seen["refused"]
    assert refused["no sequence"].startswith(
        "StatusCode.INVALID_ARGUMENT: this model keeps a state"
    )
    assert refused["not begun"].startswith("StatusCode.FAILED_PRECONDITION: there is no sequence")
    assert refused["two rows"].startswith("StatusCode.INVALID_ARGUMENT: a request of 2 rows")
    assert refused["decoupled"].startswith("StatusCode.UNIMPLEMENTED: this model answers")
    assert [state["input_name"] for state in seen["config"]["state"]] == ["h", "c"]
    assert [tensor["name"] for tensor in seen["metadata"]] == ["x"]


def test_sequences_over_rest(rest_door: Server) -> None:
    """Thirty-two interleaved ones, as JSON and raw; refusals."""
    seen = ask("http", rest_door)
    assert seen["raw"] < 1e-6
    assert seen["json"] < 1e-6
    refused = seen["refused"]
    assert refused["no sequence"].startswith("400: this model keeps a state")
    assert refused["not begun"].startswith("400: there is no sequence")
    assert refused["two rows"].startswith("400: a request of 2 rows")
    assert refused["decoupled"].startswith("501: this model answers")
