"""Who may call: a table of callers, good and bad, through a real server over real TLS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2, status_pb2

from lepton_mesh.authorization import AuthorizationTable, Rule, check_complete
from lepton_mesh.caller import Caller, Role, current_caller
from lepton_mesh.peers import Denylist
from lepton_mesh.server import TableIncomplete
from lepton_mesh.spiffe import SpiffeId

if TYPE_CHECKING:
    from conftest import Mesh

ECHO = "lepton.test.v1.EchoService"
ARITIES = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
DEVELOPERS = Rule(min_role=Role.DEVELOPER)
JOB = SpiffeId.for_job("test.local", "lab", "j1")

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _unsigned(mesh: Mesh) -> Metadata:
    payload = jwt.decode(mesh.token(), options={"verify_signature": False})
    return bearer(jwt.encode(payload, None, "none", headers={"kid": "k1"}))


def _hs256(mesh: Mesh) -> Metadata:
    """The classic confusion: the public key taken for an HMAC secret."""
    payload = jwt.decode(mesh.token(), options={"verify_signature": False})
    return bearer(jwt.encode(payload, "x" * 32, "HS256", headers={"kid": "k1"}))


@dataclass
class Row:
    name: str
    code: str
    reason: str
    rule: Rule = DEVELOPERS
    peer: Any = "gateway"
    ttl: timedelta = timedelta(hours=1)
    metadata: Callable[[Mesh], Metadata] = field(default=lambda mesh: bearer(mesh.token()))


BAD = [
    Row("no token", "UNAUTHENTICATED", "TOKEN_MISSING", metadata=lambda _: ()),
    Row(
        "expired token",
        "UNAUTHENTICATED",
        "TOKEN_EXPIRED",
        metadata=lambda mesh: bearer(mesh.token(life=-60)),
    ),
    Row(
        "token of another key",
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        metadata=lambda mesh: bearer(mesh.token(key=ec.generate_private_key(ec.SECP256R1()))),
    ),
    Row(
        "unknown key id",
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        metadata=lambda mesh: bearer(mesh.token(kid="k9")),
    ),
    Row("unsigned token", "UNAUTHENTICATED", "TOKEN_INVALID", metadata=_unsigned),
    Row("symmetric token", "UNAUTHENTICATED", "TOKEN_INVALID", metadata=_hs256),
    Row(
        "token of another issuer",
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        metadata=lambda mesh: bearer(mesh.token(iss="elsewhere")),
    ),
    Row(
        "token for another audience",
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        metadata=lambda mesh: bearer(mesh.token(aud="elsewhere")),
    ),
    Row(
        "token without a workspace",
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        metadata=lambda mesh: bearer(mesh.token(workspace="")),
    ),
    Row("garbage", "UNAUTHENTICATED", "TOKEN_INVALID", metadata=lambda _: bearer("garbage")),
    Row(
        "basic authorization",
        "UNAUTHENTICATED",
        "TOKEN_INVALID",
        metadata=lambda _: (("authorization", "Basic YTpi"),),
    ),
    Row(
        "role too low",
        "PERMISSION_DENIED",
        "ROLE_TOO_LOW",
        metadata=lambda mesh: bearer(mesh.token(role=Role.VIEWER)),
    ),
    Row(
        "a job where jobs may not",
        "PERMISSION_DENIED",
        "CALLER_NOT_ALLOWED",
        peer=JOB,
        metadata=lambda mesh: bearer(mesh.token("jobs/j1", kind="job")),
    ),
    Row(
        "a job with a user's token",
        "PERMISSION_DENIED",
        "PEER_TOKEN_MISMATCH",
        rule=Rule(min_role=Role.VIEWER, jobs=True),
        peer=JOB,
    ),
    Row(
        "a job with another job's token",
        "PERMISSION_DENIED",
        "PEER_TOKEN_MISMATCH",
        rule=Rule(jobs=True),
        peer=JOB,
        metadata=lambda mesh: bearer(mesh.token("jobs/j2", kind="job")),
    ),
    Row(
        "a job with another workspace's token",
        "PERMISSION_DENIED",
        "PEER_TOKEN_MISMATCH",
        rule=Rule(jobs=True),
        peer=JOB,
        metadata=lambda mesh: bearer(mesh.token("jobs/j1", kind="job", workspace="other")),
    ),
    Row(
        "a job's token from outside the mesh",
        "PERMISSION_DENIED",
        "PEER_TOKEN_MISMATCH",
        rule=Rule(jobs=True),
        metadata=lambda mesh: bearer(mesh.token("jobs/j1", kind="job")),
    ),
    Row(
        "a user where only services may",
        "PERMISSION_DENIED",
        "CALLER_NOT_ALLOWED",
        rule=Rule(services=frozenset({"training"})),
    ),
    Row(
        "a service that the rule does not name",
        "PERMISSION_DENIED",
        "CALLER_NOT_ALLOWED",
        rule=Rule(min_role=Role.VIEWER, services=frozenset({"training"})),
        peer="registry",
        metadata=lambda _: (("x-lepton-workspace", "lab"),),
    ),
    Row(
        "a forwarded call is not the gateway's own",
        "PERMISSION_DENIED",
        "CALLER_NOT_ALLOWED",
        rule=Rule(peers=True),
        metadata=lambda _: (("x-forwarded-proto", "https"), ("x-lepton-workspace", "lab")),
    ),
    Row(
        "a rule that lets nobody in",
        "PERMISSION_DENIED",
        "CALLER_NOT_ALLOWED",
        rule=Rule(),
    ),
    Row(
        "another trust domain",
        "PERMISSION_DENIED",
        "PEER_UNTRUSTED",
        rule=Rule(public=True),
        peer=SpiffeId.for_service("elsewhere.local", "gateway"),
    ),
]


@pytest.mark.parametrize("arity", ["UnaryUnary", "StreamStream"])
@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name.replace(" ", "-"))
async def test_bad_caller_is_refused(mesh: Mesh, row: Row, arity: str) -> None:
    """Every bad caller gets its status and reason, and the servicer is never reached."""
    reached = []
    running = await mesh.serve(_reach(reached), row.rule)
    stub = type(mesh.stub(running))(mesh.raw(running, mesh.identity(row.peer, row.ttl)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.call(arity, "x", metadata=row.metadata(mesh), timeout=5)
    info = error_info(caught.value)
    assert (caught.value.code().name, info.reason) == (row.code, row.reason)
    assert info.domain == "lepton.dev"
    assert not reached


def _reach(reached: list[str]) -> Callable[[str], Any]:
    async def behavior(text: str) -> str:
        reached.append(text)
        return text

    return behavior


def error_info(error: grpc.aio.AioRpcError) -> Any:
    """The ErrorInfo that every error must carry."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


GOOD: list[tuple[str, Rule, Any, Callable[[Mesh], Metadata], Caller]] = [
    (
        "user",
        DEVELOPERS,
        "gateway",
        lambda mesh: bearer(mesh.token()),
        Caller("user", "users/ada", "lab", Role.DEVELOPER),
    ),
    (
        "admin may what developers may",
        DEVELOPERS,
        "registry",
        lambda mesh: bearer(mesh.token(role=Role.ADMIN)),
        Caller("user", "users/ada", "lab", Role.ADMIN),
    ),
    (
        "job",
        Rule(jobs=True),
        JOB,
        lambda mesh: bearer(mesh.token("jobs/j1", kind="job", reads=["datasets/d/versions/1"])),
        Caller("job", "jobs/j1", "lab", reads=frozenset({"datasets/d/versions/1"})),
    ),
    (
        "a service that carries a job's token on",
        Rule(jobs=True),
        "registry",
        lambda mesh: bearer(mesh.token("jobs/j1", kind="job", writes=["models/m"])),
        Caller("job", "jobs/j1", "lab", writes=frozenset({"models/m"})),
    ),
    (
        "service on its own behalf",
        Rule(services=frozenset({"training"})),
        "training",
        lambda _: (("x-lepton-workspace", "lab"),),
        Caller("service", "services/training", "lab"),
    ),
    (
        "any peer, no workspace",
        Rule(peers=True),
        "etcd",
        lambda _: (),
        Caller("service", "services/etcd", ""),
    ),
    ("a job as peer", Rule(peers=True), JOB, lambda _: (), Caller("job", "jobs/j1", "lab")),
    (
        "public ignores an expired token",
        Rule(public=True),
        "gateway",
        lambda mesh: bearer(mesh.token(life=-60)),
        Caller("anonymous", "", ""),
    ),
    (
        "public ignores what is no token",
        Rule(public=True),
        "gateway",
        lambda _: (("authorization", "Basic YTpi"),),
        Caller("anonymous", "", ""),
    ),
]


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row[0].replace(" ", "-"))
async def test_good_caller_is_known(mesh: Mesh, row: Any) -> None:
    """The servicer sees who asks and who carries."""
    _, rule, peer, metadata, expected = row
    seen: list[Caller] = []

    async def behavior(text: str) -> str:
        seen.append(current_caller())
        return text

    running = await mesh.serve(behavior, rule)
    holder = mesh.identity(peer)
    sent = metadata(mesh)
    for arity in ARITIES:
        await mesh.stub(running, holder).call(arity, "x", metadata=sent, timeout=5)
    assert len(seen) == len(ARITIES)
    for caller in seen:
        assert caller.peer == holder.credentials.names.spiffe_id
        for part in ("kind", "subject", "workspace", "role", "reads", "writes"):
            assert getattr(caller, part) == getattr(expected, part), part


async def test_revoked_and_expired_peers_lose_an_open_connection(mesh: Mesh) -> None:
    """The peer is checked for each call, not for each connection."""
    running = await mesh.serve(_reach([]), Rule(public=True))
    peer = mesh.identity("gateway")
    raw = type(mesh.stub(running))(mesh.raw(running, peer))
    await raw.call("UnaryUnary", "x")
    mesh.revoke(running, peer)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.call("UnaryUnary", "x")
    assert error_info(caught.value).reason == "PEER_CERTIFICATE_REVOKED"

    brief = mesh.identity("gateway", timedelta(seconds=1.5))
    raw = type(mesh.stub(running))(mesh.raw(running, brief))
    await raw.call("UnaryUnary", "x", wait_for_ready=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        until = time.monotonic() + 5
        while time.monotonic() < until:  # the certificate's end is the event
            await raw.call("UnaryUnary", "x")
    assert error_info(caught.value).reason == "PEER_CERTIFICATE_EXPIRED"


async def test_a_start_waits_for_the_denylist_but_not_for_ever() -> None:
    """A process that has just started knows who was revoked, unless the auth service is away."""
    may_answer = asyncio.Event()

    async def fetch() -> list[str]:
        await may_answer.wait()
        return ["5e"]

    denylist = Denylist(fetch)
    denylist.start()
    await denylist.wait(0.01)
    assert "5e" not in denylist
    waiting = asyncio.create_task(denylist.wait(5))
    may_answer.set()
    await waiting
    assert "5e" in denylist
    await denylist.close()


async def test_a_peer_of_another_authority_gets_no_connection(mesh: Mesh) -> None:
    """TLS refuses what the mesh's root did not sign."""
    running = await mesh.serve(_reach([]), Rule(public=True))
    foreign = mesh.foreign_identity("gateway")
    stub = type(mesh.stub(running))(mesh.raw(running, foreign))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.call("UnaryUnary", "x", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_method_without_a_rule_is_not_served(mesh: Mesh) -> None:
    """A server refuses to start when the table misses one of its methods."""
    table = AuthorizationTable({f"/{ECHO}/{arity}": DEVELOPERS for arity in ARITIES[1:]})
    with pytest.raises(TableIncomplete, match=f"/{ECHO}/UnaryUnary"):
        await mesh.serve(_reach([]), DEVELOPERS, table=table)


def test_check_complete_names_both_kinds_of_gap(echo_descriptor: Any) -> None:
    """The contract test's check lists what has no rule and what no RPC has."""
    complete = {f"/{ECHO}/{arity}": DEVELOPERS for arity in ARITIES}
    check_complete(AuthorizationTable(complete), [echo_descriptor])
    del complete[f"/{ECHO}/UnaryUnary"]
    complete[f"/{ECHO}/Gone"] = DEVELOPERS
    with pytest.raises(ValueError, match=r"UnaryUnary has no rule; .*Gone is not served"):
        check_complete(AuthorizationTable(complete), [echo_descriptor])


async def test_unknown_method_carries_error_info(mesh: Mesh) -> None:
    """Even what gRPC would answer itself has a reason."""
    running = await mesh.serve(_reach([]), DEVELOPERS)
    call: Any = mesh.raw(running).unary_unary(f"/{ECHO}/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error_info(caught.value).reason == "METHOD_UNKNOWN"
