"""The conventions of the API: ids, names, pages, masks, etags."""

from __future__ import annotations

import base64
import json

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton_mesh.resources import (
    EtagMismatch,
    InvalidId,
    InvalidName,
    InvalidPage,
    InvalidRequestId,
    InvalidUpdateMask,
    Page,
    check_etag,
    check_id,
    check_request_id,
    masked_fields,
    parse_name,
)


@pytest.mark.parametrize("value", ["a", "a-1", "x" * 63])
def test_ids(value: str) -> None:
    """One to 63 lower-case letters, digits and hyphens."""
    assert check_id(value, "user_id") == value


@pytest.mark.parametrize("value", ["", "1a", "-a", "A", "a_b", "x" * 64, "a\n", "ä"])
def test_what_is_no_id(value: str) -> None:
    """The field is named."""
    with pytest.raises(InvalidId, match="user_id"):
        check_id(value, "user_id")


def test_names_come_apart() -> None:
    """Into their variable segments."""
    assert parse_name("models/{model}/versions/{version}", "models/m/versions/3") == ("m", "3")


@pytest.mark.parametrize(
    "name",
    ["", "models", "models/", "models/m/x", "model/m", "models/..", "models/a b", "/models/m"],
)
def test_what_is_no_name(name: str) -> None:
    """Whatever does not fit the pattern; dots and slashes cannot climb. The rule is told."""
    with pytest.raises(InvalidName, match=r"form models/\{model\}: .* 1 to 128 letters"):
        parse_name("models/{model}", name)


def test_a_page_goes_on_where_the_last_ended() -> None:
    """Its token gives back the key, and only to the list that made it."""
    first = Page.of(pb.ListUsersRequest(), "users", str)
    assert (first.size, first.after) == (100, None)
    token = first.token("ada")
    request = pb.ListUsersRequest(page_size=5000, page_token=token)
    page = Page.of(request, "users", str)
    assert (page.size, page.after) == (1000, ("ada",))
    for kind, types in (("models", (str,)), ("users", (int,)), ("users", (str, str))):
        with pytest.raises(InvalidPage):
            Page.of(request, kind, *types)


@pytest.mark.parametrize("token", ["x", "!", "bnVsbA", "W10", "e30", "ä", "MTIz"])
def test_what_is_no_page_token(token: str) -> None:
    """Nonsense is refused as such: null, [], {}, 123 and what is no base64."""
    with pytest.raises(InvalidPage):
        Page.of(pb.ListUsersRequest(page_token=token), "users", str)


def _token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "key",
    [
        "9223372036854775808",
        "-9223372036854775808",
        "9" * 300,
        "true",
        "1.5",
        r'"\ud800"',
        r'"a\u0000"',
        "[" * 5000 + "]" * 5000,
        json.dumps("a" * 2000),
    ],
)
@pytest.mark.parametrize("key_type", [int, str])
def test_forged_keys_never_reach_a_database(key: str, key_type: type) -> None:
    """Numbers beyond 64 bits, texts that cannot be stored, lists in lists: none is a page."""
    request = pb.ListUsersRequest(page_token=_token(f'["users",{key}]'))
    with pytest.raises(InvalidPage):
        Page.of(request, "users", key_type)


@pytest.mark.parametrize("value", ["", "r-1", "x" * 128, "ä b"])
def test_request_ids(value: str) -> None:
    """Whatever can be shown, and none at all."""
    assert check_request_id(value) == value


@pytest.mark.parametrize("value", ["x" * 129, "a\0", "a\nb"])
def test_what_is_no_request_id(value: str) -> None:
    """Too long, or not to be shown."""
    with pytest.raises(InvalidRequestId, match="128"):
        check_request_id(value)


def test_masks_say_what_changes() -> None:
    """The mask's fields; without one those that are set; with `*` all."""
    user = pb.User(name="users/ada", display_name="Ada")
    allowed = ("display_name", "disabled")
    assert masked_fields(FieldMask(paths=["disabled"]), user, allowed) == {"disabled"}
    assert masked_fields(FieldMask(), user, allowed) == {"display_name"}
    assert masked_fields(FieldMask(paths=["*"]), user, allowed) == set(allowed)
    for mask, message in ((["role"], user), ([], pb.User(name="users/ada"))):
        with pytest.raises(InvalidUpdateMask):
            masked_fields(FieldMask(paths=mask), message, allowed)


def test_etags_guard_only_when_given() -> None:
    """An empty one asks for nothing."""
    check_etag("", "2", "users/ada")
    check_etag("2", "2", "users/ada")
    with pytest.raises(EtagMismatch, match="users/ada"):
        check_etag("1", "2", "users/ada")
