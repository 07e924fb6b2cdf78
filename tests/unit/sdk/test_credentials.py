"""Tokens are got when they are needed, once, and what replaces a refresh token is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.client import (
    AuthenticationError,
    Client,
    Profile,
    connect,
    load_profile,
    save_profile,
)
from tests.unit.sdk.fake_gateway import Gateway


def logged_in(gateway: Gateway) -> Profile:
    return replace(gateway.profile, api_key="", refresh_token="r0", workspace="default")


def test_one_token_serves_many_calls(gateway: Gateway, lepton: Client) -> None:
    for _ in range(3):
        lepton.auth.GetCaller(pb.GetCallerRequest())
    assert len(gateway.auth.issued) == 1


def test_many_threads_ask_once(gateway: Gateway, lepton: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: lepton.tokens.token(), range(32)))
    assert tokens == {"t1"}
    assert len(gateway.auth.issued) == 1


def test_a_token_that_runs_out_soon_is_replaced(gateway: Gateway, lepton: Client) -> None:
    gateway.auth.ttl_seconds = 30
    assert [lepton.tokens.token(), lepton.tokens.token()] == ["t1", "t2"]
    gateway.auth.ttl_seconds = 900
    assert [lepton.tokens.token(), lepton.tokens.token()] == ["t3", "t3"]


def test_the_workspace_is_asked_for(gateway: Gateway) -> None:
    with Client(replace(gateway.profile, workspace="lab")) as client:
        client.tokens.token()
    assert gateway.auth.issued[0].workspace == "lab"


def test_without_a_credential_no_token_is_asked_for(gateway: Gateway) -> None:
    with Client(replace(gateway.profile, api_key="")) as client:
        assert client.tokens.token() == ""
        with pytest.raises(AuthenticationError, match="lepton login"):
            list(client.models.list())
    assert gateway.auth.issued == []


@pytest.mark.parametrize("streaming", [False, True])
def test_a_credential_that_does_not_hold_says_so(gateway: Gateway, streaming: bool) -> None:
    """The same error for every shape of call, and not one about a plugin."""
    with (
        Client(replace(gateway.profile, api_key="lpk_gone")) as client,
        pytest.raises(AuthenticationError) as caught,
    ):
        list(client.jobs.watch("j1")) if streaming else client.models.get("digits")
    assert caught.value.reason == "CREDENTIAL_INVALID"


def test_a_refresh_token_is_replaced_in_memory(gateway: Gateway) -> None:
    gateway.auth.ttl_seconds = 30
    with Client(logged_in(gateway)) as client:
        assert [client.tokens.token() for _ in range(3)] == ["t1", "t2", "t3"]
    assert [request.refresh_token for request in gateway.auth.issued] == ["r0", "r1", "r2"]


def test_a_refresh_token_is_replaced_on_disk(gateway: Gateway, config: Path) -> None:
    save_profile("me", logged_in(gateway))
    save_profile("other", Profile("localhost:1"))
    with connect("me") as client:
        client.tokens.token()
    assert load_profile("me") == replace(logged_in(gateway), refresh_token="r1")
    assert load_profile() == Profile("localhost:1")


def test_clients_that_share_a_profile_do_not_spend_each_others_token(
    gateway: Gateway, config: Path
) -> None:
    """A long-lived client meets the token that a later one left."""
    save_profile("me", logged_in(gateway))
    gateway.auth.ttl_seconds = 30
    with connect("me") as one, connect("me") as two:
        tokens = [client.tokens.token() for client in (one, two, one, two)]
    assert tokens == ["t1", "t2", "t3", "t4"]


def test_clients_at_the_same_moment(gateway: Gateway, config: Path) -> None:
    save_profile("me", logged_in(gateway))
    clients = [connect("me") for _ in range(6)]
    try:
        with ThreadPoolExecutor(6) as pool:
            tokens = set(pool.map(lambda client: client.tokens.token(), clients))
    finally:
        for client in clients:
            client.close()
    assert len(tokens) == 6
    assert load_profile("me").refresh_token == gateway.auth.refresh_token


def test_what_is_given_goes_before_what_is_saved(gateway: Gateway, config: Path) -> None:
    save_profile("me", logged_in(gateway))
    with connect("me", api_key="lpk_fake", workspace="lab") as client:
        client.tokens.token()
    (request,) = gateway.auth.issued
    assert (request.api_key, request.workspace) == ("lpk_fake", "lab")
    assert load_profile("me").refresh_token == "r0"
