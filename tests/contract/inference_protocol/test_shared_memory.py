"""Tensors in shared memory, by Triton's own clients; and by callers who mean harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.inference_protocol import doors
from tests.contract.inference_protocol.conftest import MODELS
from tests.contract.inference_protocol.doors import Server

CLIENT = Path(__file__).with_name("shared_memory_client.py")
DATATYPES = {name.removeprefix("identity-") for name in MODELS if name.startswith("identity-")}
STATUS = {
    "404": "NOT_FOUND",
    "400": "INVALID_ARGUMENT",
    "409": "ALREADY_EXISTS",
    "429": "RESOURCE_EXHAUSTED",
}


def ask(kind: str, door: Server) -> dict[str, Any]:
    """What Triton's client saw."""
    return doors.ask(CLIENT, kind, door.as_json())


def status(refusal: str) -> str:
    """The status of a refusal, by its gRPC name."""
    code = refusal.partition(":")[0]
    return STATUS.get(code, code.removeprefix("StatusCode."))


def check(seen: dict[str, Any]) -> None:
    """Everything is as it should be, whatever the protocol."""
    assert seen["extensions"] == ["system_shared_memory"]
    assert (seen["status"], seen["one"]) == (["in", "out put"], ["out put"])
    assert seen["datatypes"] == dict.fromkeys(DATATYPES | {"bytes"}, True)
    assert seen["raw"] == [0]
    assert seen["said"] == ["out put", 4 + len("über".encode()) + 4, 64]
    assert seen["mixed"] == [[[11, 12], [13, 14]], [[7], [8]]]
    assert seen["in_message"] == [10.0, 20.0, 30.0]
    assert seen["streamed"] in (40.0, None)
    assert seen["left"] == ["out put"]
    assert status(seen["unregistered"]) == "NOT_FOUND"


def check_refusals(refused: dict[str, str]) -> None:
    """Each with its status, and the sizes where sizes are what is wrong."""
    expected = {
        "nowhere": "NOT_FOUND",
        "status": "NOT_FOUND",
        "absent": "NOT_FOUND",
        "link": "NOT_FOUND",
        "directory": "NOT_FOUND",
        "fifo": "NOT_FOUND",
        "twice": "ALREADY_EXISTS",
        "huge": "RESOURCE_EXHAUSTED",
    }
    for name, refusal in refused.items():
        if name != "cuda":
            assert status(refusal) == expected.get(name, "INVALID_ARGUMENT"), (name, refusal)
    assert "has 24 bytes" in refused["small"]
    assert refused["small"].endswith("has 8")
    assert "has no GPU" in refused["cuda"] or "cannot use a GPU" in refused["cuda"]


def check_others(others: dict[str, Any]) -> None:
    """Somebody else sees nothing, reaches nothing and takes nothing away."""
    assert others["status"] == []
    for name in ("input", "output", "object", "length"):
        assert status(others[name]) == "NOT_FOUND", name
    assert others["same_name"] == "not refused"
    assert others["mine"] == ["in", "out put"]


def check_cut_short(cut: dict[str, Any]) -> None:
    """A region that shrinks, or goes, is a refusal and nothing worse; nothing makes it grow."""
    assert status(cut["input"]) == status(cut["output"]) == "INVALID_ARGUMENT"
    assert (cut["size"], cut["changing"]) == (16, True)
    assert status(cut["deleted"]) == status(cut["made_anew"]) == "NOT_FOUND"
    assert cut["registered_anew"] == [[10.0] * 3, [26.0] * 3]


def check_all(seen: dict[str, Any]) -> None:
    check(seen)
    check_refusals(seen["refused"])
    check_others(seen["others"])
    check_cut_short(seen["cut_short"])


def test_the_grpc_client_shares_memory(server: Server) -> None:
    """Every datatype, both ways; refusals; other callers; objects that change underneath."""
    check_all(ask("grpc", server))


def test_the_http_client_shares_memory(asgi_server: Server) -> None:
    """REST is no different."""
    check_all(ask("http", asgi_server))


@pytest.mark.parametrize("kind", ["grpc", "http"])
@pytest.mark.parametrize("way", ["mtls", "gateway"])
def test_shared_memory_works_through_every_door(
    kind: str, way: str, request: pytest.FixtureRequest
) -> None:
    """On this machine, which is where the gateway is as well."""
    door: Server = request.getfixturevalue(f"{way}_server")
    seen = ask(kind, door)
    check(seen)
    check_refusals(seen["refused"])
    check_cut_short(seen["cut_short"])
