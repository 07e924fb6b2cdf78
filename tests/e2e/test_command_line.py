"""The session of the README, typed into a real stack."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from tests.e2e.conftest import SPEC, Command
from tests.inference_models import linear

pytestmark = pytest.mark.e2e


def test_status_shows_every_service_with_its_certificate(lepton: Command) -> None:
    status = lepton.json("status")
    assert status["state"] == "READY"
    services = {each["service"]: each for each in status["instances"]}
    assert set(services) == {"auth", "storage", "registry", "training", "inference", "gateway"}
    for each in services.values():
        assert each["health"] == "SERVING"
        assert each["version"]
        assert each["certificate_expires"] > each["started"]
        assert each["address"].startswith("127.0.0.1:")


def test_a_second_up_finds_the_stack_that_is_up(lepton: Command) -> None:
    assert "already up" in lepton.ok("up", "--port", "0")


def test_a_second_up_makes_a_profile_that_is_missing(lepton: Command, tmp_path: Path) -> None:
    """As after a first `lepton up` that was killed before it wrote one."""
    stranger = Command(lepton.home, tmp_path / "config.yaml")
    assert "profile    local, in" in stranger.ok("up", "--port", "0")
    assert stranger.ok("data", "list")


def test_pushed_data_comes_back_byte_for_byte(
    lepton: Command, trained: str, digits: Path, tmp_path: Path
) -> None:
    lepton.ok("data", "get", "session/1", "-d", tmp_path)
    for path in digits.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_same_content_is_the_same_version(lepton: Command, trained: str, digits: Path) -> None:
    version = lepton.json("data", "push", "session", digits)
    assert version["name"] == "datasets/session/versions/1"


def test_a_job_leaves_its_log_and_figures(lepton: Command, trained: str) -> None:
    (job,) = [job for job in lepton.json("job", "list") if job.get("model_version") == trained]
    assert len(job["epoch_seconds"]) == 2
    assert "epoch" in lepton.ok("job", "logs", job["name"])


def test_an_onnx_file_of_ones_own_is_registered_and_served(lepton: Command, tmp_path: Path) -> None:
    (tmp_path / "linear.onnx").write_bytes(linear(2.0))
    version = lepton.json("model", "push", "own", tmp_path / "linear.onnx")
    assert version["name"] == "models/own/versions/1"
    lepton.ok("endpoint", "create", "own", "--model", "own/1")
    np.save(tmp_path / "image.npy", np.ones((1, 4), np.float32))
    (output,) = lepton.json("infer", "own", "-i", tmp_path / "image.npy").values()
    assert output == [[8.0, 8.0, 8.0]]
    lepton.ok("endpoint", "delete", "own", "--yes")


def test_a_version_carries_its_papers(lepton: Command, trained: str) -> None:
    version = lepton.json("model", "get", trained)
    assert version["lineage"]["dataset_version"] == "datasets/session/versions/1"
    assert version["lineage"]["dataset_digest"].startswith("sha256:")
    assert version["lineage"]["job"].startswith("jobs/")
    assert version["lineage"]["hyperparameters"]["epochs"] == 2
    assert 0 < version["metrics"]["test_accuracy"] <= 1
    assert version["signature"]["inputs"][0]["shape"][0] == -1


def test_an_endpoint_predicts_and_goes(lepton: Command, trained: str, tmp_path: Path) -> None:
    created = lepton.json("endpoint", "create", "session", "--model", trained)
    assert created["state"] == "READY"
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((3, 8, 8), np.uint8))
    (output,) = lepton.json("infer", "session", "-i", images).values()
    assert np.array(output).shape == (3, 10)
    lepton.ok("endpoint", "delete", "session", "--yes")
    gone = lepton("infer", "session", "-i", images)
    assert gone.returncode == 3
    assert "session" in gone.stderr


def test_formats_agree(lepton: Command, trained: str) -> None:
    as_json = json.loads(lepton.ok("model", "list", "-o", "json"))
    assert yaml.safe_load(lepton.ok("model", "list", "-o", "yaml")) == as_json
    assert lepton.ok("model", "list", "-o", "name").split() == [each["name"] for each in as_json]
    assert lepton.ok("model", "list").startswith("NAME")


def test_users_have_what_their_role_allows(lepton: Command, trained: str, tmp_path: Path) -> None:
    """A viewer reads and may not write; a deleted key is worth nothing."""
    reader = _logged_in(lepton, tmp_path, "reader", "viewer")
    assert reader.json("model", "get", trained)["name"] == trained
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    refused = reader("job", "create", "-f", spec)
    assert refused.returncode == 4
    assert "developer" in refused.stderr


def test_an_api_key_works_until_it_is_deleted(lepton: Command, tmp_path: Path) -> None:
    owner = _logged_in(lepton, tmp_path, "owner", "developer")
    secret = owner.ok("key", "create", "--display-name", "script").strip()
    profile = yaml.safe_load(lepton.config.read_text())["profiles"]["local"]
    script = Command(lepton.home, tmp_path / "script.yaml")
    script.config.write_text(
        yaml.safe_dump({"current": "s", "profiles": {"s": {**profile, "api_key": secret}}})
    )
    assert script.json("whoami")["subject"] == "users/owner"
    (key,) = owner.json("key", "list")
    owner.ok("key", "delete", key["name"], "--yes")
    assert script("model", "list").returncode == 4


def _logged_in(lepton: Command, folder: Path, user: str, role: str) -> Command:
    """A new user of the stack, logged in with a password to a profile file of its own."""
    password = "correct horse battery staple"
    # The profile of `lepton up` has an API key, which makes no users.
    told = lepton.ok("up", "--reset-admin-password").partition("password ")[2]
    admin = _log_in(lepton, folder, "admin", told.split()[0])
    admin.ok("user", "create", user, "--role", role, "--password", password)
    return _log_in(lepton, folder, user, password)


def _log_in(lepton: Command, folder: Path, user: str, password: str) -> Command:
    profile = yaml.safe_load(lepton.config.read_text())["profiles"]["local"]
    command = Command(lepton.home, folder / f"{user}.yaml")
    command.ok(
        *("login", profile["address"], "--user", user),
        *("--password", password, "--ca-file", profile["ca_file"]),
    )
    return command


def test_logs_prints_what_a_service_wrote(lepton: Command) -> None:
    assert lepton.ok("logs", "storage", "-n", "0")


def test_doctor_finds_nothing_missing(lepton: Command) -> None:
    findings = lepton.json("doctor")
    assert {each["level"] for each in findings} <= {"ok", "note"}


def test_what_was_killed_comes_back_at_another_address(digits: Path, tmp_path: Path) -> None:
    """``kill -9`` of every process; the next ``up`` recovers, and serves what was there.

    Each address in turn, in one home: the certificate follows, and profiles work over TLS.
    """
    own = Command(tmp_path / "home", tmp_path / "config.yaml")
    (tmp_path / "home").mkdir()
    try:
        _up_at(own, "127.0.0.2", "127.0.0.2")
        own.ok("data", "push", "kept", digits)
        _kill_everything(own)
        assert own("status").returncode == 1
        _up_at(own, "0.0.0.0", "localhost", socket.gethostname())
        assert own.json("data", "list")[0]["name"] == "datasets/kept"
        own.ok("data", "get", "kept", "-d", tmp_path / "copy")
        if _has_ipv6():
            _kill_everything(own)
            _up_at(
                own, "::1", "::1", "lepton.example.org", options=("--name", "lepton.example.org")
            )
    finally:
        own.ok("down")
    assert _processes_of(own) == []
    if not _has_ipv6():
        pytest.skip("this machine has no ::1; the IPv4 addresses were called")


def _up_at(own: Command, host: str, *names: str, options: tuple[str, ...] = ()) -> None:
    """Starts the stack at an address, and calls it by each of its names; the first is told."""
    own.ok("up", "--port", "0", "--host", host, *options)
    assert own.json("whoami")["subject"] == "users/admin"
    told, _, port = own.json("status")["gateway"].rpartition(":")
    assert told.strip("[]") == names[0]
    context = ssl.create_default_context(cafile=own.home / "ca.pem")
    for name in names:
        with (
            socket.create_connection((names[0], int(port)), 10) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            pass


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def _processes_of(command: Command) -> list[psutil.Process]:
    from lepton_local.home import Home
    from lepton_local.processes import belonging_to

    return belonging_to(Home(command.home))


def _kill_everything(command: Command) -> None:
    assert len(_processes_of(command)) > 8
    while processes := _processes_of(command):
        for process in processes:
            # An Envoy ends with the process that started it, which may have been killed just now.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
