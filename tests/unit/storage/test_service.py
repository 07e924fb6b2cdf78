"""The service's table of rights and its tables of rows are complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton.api.storage.v1 import storage_pb2
from lepton_mesh.authorization import check_complete
from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.database import create_engine, differences, upgrade
from lepton_mesh.resources import InvalidName
from lepton_storage import convert
from lepton_storage.access import TABLE
from lepton_storage.config import StorageSettings
from lepton_storage.models import Base


def test_every_rpc_has_a_rule() -> None:
    """No RPC is left out of the authorization table, and none is in it that is not served."""
    check_complete(TABLE, [storage_pb2.DESCRIPTOR.services_by_name["StorageService"]])


def test_nobody_but_those_the_api_names_acts_for_itself() -> None:
    """Services on their own behalf: as the comments of the RPCs say."""
    assert {
        method.rpartition("/")[2]: sorted(rule.services)
        for method, rule in TABLE.items()
        if rule.services or rule.public or rule.peers
    } == {
        "GetDatasetVersion": ["training"],
        "DeleteArtifact": ["training"],
        "GetArtifact": ["inference"],
        "ReadArtifact": ["inference"],
        "HoldArtifacts": ["registry"],
        "ReleaseArtifacts": ["registry"],
    }


def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    """Revisions and models say the same."""
    engine = create_engine(f"sqlite:///{tmp_path / 'storage.db'}")
    upgrade(engine, "lepton_storage.migrations")
    assert differences(engine, Base.metadata) == []
    engine.dispose()


@pytest.mark.parametrize("number", ["0", "-1", "x", "latest", "99999999999", "٣", ""])
def test_a_version_name_ends_in_a_number(number: str) -> None:
    """Anything else is an invalid name, not a crash."""
    with pytest.raises(InvalidName):
        convert.version_id(f"datasets/d/versions/{number}")


def test_an_unknown_object_store_stops_the_start(tmp_path: Path) -> None:
    """The error names the setting."""
    environment = {"LEPTON_STATE_DIR": str(tmp_path), "LEPTON_OBJECTS_URL": "gs://bucket"}
    with pytest.raises(InvalidConfiguration, match="LEPTON_OBJECTS_URL"):
        StorageSettings.load("storage", environment)


@pytest.mark.parametrize("url", ["", "/srv/objects"])
def test_an_endpoint_without_an_object_store_stops_the_start(tmp_path: Path, url: str) -> None:
    """Objects would go into a directory while the operator believes them in a bucket."""
    environment = {
        "LEPTON_STATE_DIR": str(tmp_path),
        "LEPTON_OBJECTS_URL": url,
        "LEPTON_OBJECTS_ENDPOINT": "http://127.0.0.1:9000",
    }
    with pytest.raises(InvalidConfiguration, match=r"LEPTON_OBJECTS_ENDPOINT.*no effect"):
        StorageSettings.load("storage", environment)
    environment["LEPTON_OBJECTS_URL"] = "s3://bucket"
    assert StorageSettings.load("storage", environment).objects_endpoint
