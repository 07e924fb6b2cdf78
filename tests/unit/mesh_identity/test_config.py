"""Settings are read once, strictly, and complained about by name."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from pydantic import Field

from lepton_mesh.config import DatabaseSettings, InvalidConfiguration, MeshSettings


class Settings(DatabaseSettings):
    rows: int = 3
    recipes: list[str] = Field(default=["a"])


def test_defaults_that_depend_on_the_service(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "state"
    one, other = (
        Settings.load("storage", {"LEPTON_STATE_DIR": str(directory), "HOME": "/"})
        for _ in range(2)
    )
    assert one.instance.startswith("storage-")
    assert one.instance != other.instance
    assert one.database_url == f"sqlite:///{directory}/storage.db"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_values_come_from_the_environment(tmp_path: Path) -> None:
    settings = Settings.load(
        "storage",
        {
            "LEPTON_STATE_DIR": str(tmp_path),
            "LEPTON_ROWS": "7",
            "LEPTON_RECIPES": '["x", "y"]',
            "LEPTON_ETCD_ENDPOINTS": "a:1, b:2",
            "LEPTON_JOIN_TOKEN_FILE": "",
        },
    )
    assert (settings.rows, settings.recipes) == (7, ["x", "y"])
    assert settings.etcd_endpoint_list == ("a:1", "b:2")
    assert settings.join_token_file is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"LEPTON_STATE_DIR": ""}, "LEPTON_STATE_DIR: must be set"),
        ({"LEPTON_ROWZ": "1"}, "unknown setting: LEPTON_ROWZ"),
        ({"LEPTON_ROWS": "many"}, "LEPTON_ROWS: "),
        ({"LEPTON_RECIPES": "["}, "recipes"),
        ({"LEPTON_LISTEN_PORT": "65536"}, "LEPTON_LISTEN_PORT: "),
        ({"LEPTON_INSTANCE": "a/b"}, "LEPTON_INSTANCE: "),
        ({"LEPTON_TRUST_DOMAIN": "A b"}, "LEPTON_TRUST_DOMAIN: "),
        (
            {"LEPTON_IDENTITY_DIR": "/ids", "LEPTON_JOIN_ADDRESS": "a:1"},
            "LEPTON_JOIN_ADDRESS would have no effect",
        ),
        (
            {"LEPTON_IDENTITY_DIR": "/ids", "LEPTON_JOIN_TOKEN_FILE": "/token"},
            "LEPTON_JOIN_TOKEN_FILE would have no effect",
        ),
        ({"LEPTON_STATE_DIR": "/proc/nowhere"}, "LEPTON_STATE_DIR: cannot create"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidConfiguration) as raised:
        Settings.load("storage", {"LEPTON_STATE_DIR": str(tmp_path), **environ})
    assert message in raised.value.message


def test_a_service_without_a_database_takes_no_url(tmp_path: Path) -> None:
    """It would have no effect."""
    environ = {"LEPTON_STATE_DIR": str(tmp_path), "LEPTON_DATABASE_URL": "sqlite://"}
    with pytest.raises(InvalidConfiguration, match="unknown setting: LEPTON_DATABASE_URL"):
        MeshSettings.load("gateway", environ)


def test_values_which_may_be_secret_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as raised:
        Settings.load("storage", {"LEPTON_STATE_DIR": str(tmp_path), "LEPTON_ROWS": "hunter2"})
    assert "hunter2" not in raised.value.message
    url = "postgresql://lepton:hunter2@db/storage"
    settings = Settings.load(
        "storage", {"LEPTON_STATE_DIR": str(tmp_path), "LEPTON_DATABASE_URL": url}
    )
    assert "hunter2" not in repr(settings)
