"""The profile file: private, whole, and told apart from what is not one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from lepton.client import (
    Profile,
    ProfileError,
    config_path,
    current_profile,
    delete_profile,
    gateway_address,
    load_profile,
    save_profile,
)
from lepton.client import profile as module
from lepton.client.profile import exchange_refresh_token

ONE = Profile("localhost:8443", ca_file="/ca.pem", workspace="default", api_key="lpk_1")
TWO = Profile("localhost:9443", refresh_token="r1")


def test_what_was_saved_is_loaded_and_current(config: Path) -> None:
    save_profile("one", ONE)
    save_profile("two", TWO)
    assert (load_profile("one"), load_profile("two"), load_profile()) == (ONE, TWO, TWO)
    assert current_profile() == "two"


def test_only_the_owner_may_read_it(config: Path) -> None:
    save_profile("one", ONE)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    config.chmod(0o644)
    save_profile("two", TWO)
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_a_write_that_breaks_off_leaves_what_was_there(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile("one", ONE)
    before = config.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.yaml, "safe_dump", full)
    with pytest.raises(ProfileError, match="No space left"):
        save_profile("two", TWO)
    assert config.read_bytes() == before
    assert not list(config.parent.glob(".config-*"))


def test_many_writers_lose_nothing(config: Path) -> None:
    names = [f"p{number}" for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: save_profile(name, ONE), names))
    assert set(yaml.safe_load(config.read_text())["profiles"]) == set(names)


def test_a_deleted_profile_is_not_current_any_more(config: Path) -> None:
    save_profile("one", ONE)
    save_profile("two", TWO)
    assert delete_profile("two")
    assert load_profile() == ONE
    assert not delete_profile("two")
    delete_profile("one")
    with pytest.raises(ProfileError, match="no profile is current"):
        load_profile()


def test_each_exchange_sees_what_the_one_before_left(config: Path) -> None:
    """Sixteen at once: every refresh token is used once."""
    save_profile("two", TWO)
    used: list[str] = []

    def exchange(token: str) -> str:
        used.append(token)
        return f"r{int(token[1:]) + 1}"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: exchange_refresh_token("two", exchange), range(16)))
    assert used == [f"r{number}" for number in range(1, 17)]
    assert load_profile("two").refresh_token == "r17"


def test_an_exchange_that_fails_keeps_the_token(config: Path) -> None:
    save_profile("two", TWO)

    def fail(token: str) -> str:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        exchange_refresh_token("two", fail)
    assert load_profile("two") == TWO


def test_an_exchange_does_not_change_which_profile_is_current(config: Path) -> None:
    save_profile("two", TWO)
    save_profile("one", ONE)
    exchange_refresh_token("two", lambda _: "r2")
    assert current_profile() == "one"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no profile is current"),
        ("{", "is not YAML"),
        ("\x00", "is not YAML"),
        ("- a list", "is not a mapping"),
        ("profiles: [a]", "is not a mapping with profiles"),
        ("current: gone\nprofiles: {a: {address: 'h:1'}}", "no profile gone .*there: a"),
        ("current: a\nprofiles: {a: text}", "profile a .* is not a mapping"),
        ("current: a\nprofiles: {a: }", "profile a .* is not a mapping"),
        ("current: a\nprofiles: {a: {}}", "no address"),
        ("current: a\nprofiles: {a: {address: }}", "no address"),
        ("current: a\nprofiles: {a: {address: h}}", "profile a .*'h' is no address"),
        ("current: a\nprofiles: {a: {address: 'h:1', apikey: x}}", "unknown apikey"),
        ("current: a\nprofiles: {a: {address: 'h:1', 3: x}}", "unknown 3"),
    ],
)
def test_what_is_no_profile_is_named(config: Path, text: str, told: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    with pytest.raises(ProfileError, match=told) as caught:
        load_profile()
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_binary_file_is_no_profile(config: Path) -> None:
    config.parent.mkdir()
    config.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ProfileError, match="is not YAML"):
        load_profile()


@pytest.mark.parametrize("act", [load_profile, lambda: save_profile("one", ONE)])
def test_a_path_that_cannot_be_is_named(
    act: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEPTON_CONFIG", str(tmp_path / "file" / "lepton.yaml"))
    with pytest.raises(ProfileError, match="file"):
        act()


def test_an_empty_value_is_no_value(config: Path) -> None:
    config.parent.mkdir()
    config.write_text("current: a\nprofiles: {a: {address: 'h:1', workspace: }}")
    assert load_profile() == Profile("h:1")


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"LEPTON_CONFIG": "/a/b", "XDG_CONFIG_HOME": "/x"}, Path("/a/b")),
        ({"XDG_CONFIG_HOME": "/x"}, Path("/x/lepton/config.yaml")),
        ({}, Path.home() / ".config/lepton/config.yaml"),
    ],
)
def test_where_it_lies(environ: dict[str, str], path: Path) -> None:
    assert config_path(environ) == path


@pytest.mark.parametrize("text", ["h:8443", "https://h:8443", "https://h:8443/"])
def test_an_address_as_people_type_it(text: str) -> None:
    assert gateway_address(text) == "h:8443"


def test_an_address_may_be_ipv6() -> None:
    assert gateway_address("[::1]:8443") == "[::1]:8443"


@pytest.mark.parametrize("text", ["", "h", "h:", ":1", "h:x", "h:0", "h:65536", "http://h:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ProfileError, match="host:port"):
        gateway_address(text)
