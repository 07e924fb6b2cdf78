"""Who gets in, and for how long what was found is remembered."""

from __future__ import annotations

import time

import pytest

from lepton_inference.gate import AUTHORIZATION, FORWARDED_CERTIFICATE, PEER_SERIAL, TokenGate
from lepton_inference.serving import Serving
from lepton_mesh.caller import Role
from lepton_mesh.claims import Claims
from lepton_mesh.interceptors.server import PeerTokenMismatch
from lepton_mesh.peers import PeerRevoked

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Tokens:
    """Says of every token that it is of ``claims``."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    async def verify(self, token: str) -> Claims:
        return self.claims


def claims(subject: str, kind: str = "user", workspace: str = "lab") -> Claims:
    return Claims(subject, kind, workspace, Role.DEVELOPER, expires=int(time.time()) + 600)


def headers(peer: str, serial: bytes = b"0AB1") -> dict[bytes, bytes]:
    return {
        AUTHORIZATION: b"Bearer x",
        FORWARDED_CERTIFICATE: f"By=x;Hash=y;URI=spiffe://lepton.local/{peer}".encode(),
        PEER_SERIAL: serial,
    }


async def test_a_certificate_revoked_later_is_remembered_no_more() -> None:
    """The next request is refused, although the same headers were let in before."""
    denylist: set[str] = set()
    gate = TokenGate(Serving(), Tokens(claims("users/ada")), "lepton.local", denylist.__contains__)
    asked = headers("svc/gateway")
    await gate.admit(METHOD, asked)
    assert gate.known(asked) is not None
    denylist.add("ab1")
    assert gate.known(asked) is None
    with pytest.raises(PeerRevoked):
        await gate.admit(METHOD, asked)
    assert gate.known(headers("svc/gateway", b"77")) is None


async def test_what_a_caller_came_with_is_known() -> None:
    """What is kept for them can go when it does."""
    shown = claims("users/ada")
    gate = TokenGate(Serving(), Tokens(shown), "lepton.local", lambda _: False)
    admitted = await gate.admit(METHOD, headers("svc/gateway"))
    assert (admitted.expires, admitted.serial) == (shown.expires, "ab1")
    assert gate.known(headers("svc/gateway")) is admitted


@pytest.mark.parametrize(
    ("peer", "claimed"),
    [
        ("ws/lab/job/f37a", claims("users/ada")),
        ("ws/lab/job/f37a", claims("jobs/e8", "job")),
        ("ws/lab/job/f37a", claims("jobs/f37a", "job", "other")),
        ("svc/gateway", claims("jobs/f37a", "job")),
    ],
)
async def test_a_job_and_its_token_belong_together(peer: str, claimed: Claims) -> None:
    """As on every other port of the mesh."""
    gate = TokenGate(Serving(), Tokens(claimed), "lepton.local", lambda _: False)
    with pytest.raises(PeerTokenMismatch):
        await gate.admit(METHOD, headers(peer))
