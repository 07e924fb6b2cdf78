"""What each command prints, and where."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from lepton.api.inference.v1 import inference_pb2
from lepton.api.training.v1 import training_pb2
from lepton.client import load_profile
from tests.unit.cli.conftest import Command
from tests.unit.sdk.fake_auth import PASSWORD
from tests.unit.sdk.fake_gateway import Gateway

SPEC = "recipe: cnn\ndataset: datasets/mnist\nseed: 7\nhyperparameters: {epochs: 2}\n"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def pushed(gateway: Gateway, lepton: Command, tmp_path: Path) -> Path:
    """A folder that is the first version of the dataset `mine`."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.csv").write_text("x\n1\n")
    (folder / "deep" / "b.csv").write_text("x\n2\n")
    lepton.ok("data", "push", "mine", folder)
    return folder


def test_data_goes_there_and_back(lepton: Command, pushed: Path, tmp_path: Path) -> None:
    version = lepton.json("data", "get", "mine")
    assert version["name"] == "datasets/mine/versions/1"
    assert version["format"] == "DATASET_FORMAT_CSV"
    assert version["size_bytes"] == 8
    assert [file["path"] for file in version["files"]] == ["a.csv", "deep/b.csv"]
    done = lepton.ok("data", "get", "mine/1", "-d", tmp_path / "copy", "-o", "name")
    assert done.out == "datasets/mine/versions/1\n"
    assert "wrote 2 files" in done.err
    assert (tmp_path / "copy/deep/b.csv").read_text() == "x\n2\n"
    assert lepton.ok("data", "list").out.splitlines()[1].split() == ["datasets/mine", "1"]
    assert "datasets/mine/versions/1  csv" in lepton.ok("data", "list", "mine").out
    lepton.ok("data", "delete", "mine", "--yes")
    assert lepton.json("data", "list") == []


def test_a_push_takes_files_and_folders(gateway: Gateway, lepton: Command, tmp_path: Path) -> None:
    for name in ("train-images-idx3-ubyte.gz", "notes.txt"):
        (tmp_path / name).write_text(name)
    version = lepton.json(
        "data", "push", "mine", tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "notes.txt"
    )
    assert version["format"] == "DATASET_FORMAT_IDX"
    version = lepton.json("data", "push", "mine", tmp_path / "notes.txt", "--format", "raw")
    assert version["format"] == "DATASET_FORMAT_RAW"


def test_formats_agree(gateway: Gateway, lepton: Command) -> None:
    as_json = lepton.json("model", "list")
    assert yaml.safe_load(lepton.ok("model", "list", "-o", "yaml").out) == as_json
    assert lepton.ok("model", "list", "-o", "name").out == "models/digits\n"
    table = lepton.ok("model", "list").out.splitlines()
    assert table[0].split() == ["NAME", "LATEST", "ALIASES", "CREATED"]
    assert table[1].split() == ["models/digits", "1"]


def test_whole_numbers_are_numbers(gateway: Gateway, lepton: Command) -> None:
    """Protobuf's JSON has 64-bit integers as strings; ours does not, to the last digit."""
    version = lepton.json("model", "get", "digits/1")
    assert version["size_bytes"] == 2**53 + 1
    assert version["signature"]["inputs"][0]["shape"] == [-1, 2]
    assert version["metrics"] == {"test_accuracy": 0.99}


def test_models(gateway: Gateway, lepton: Command) -> None:
    assert lepton.json("model", "get", "digits")["name"] == "models/digits"
    assert lepton.json("model", "list", "digits")[0]["state"] == "READY"
    changed = lepton.json("model", "alias", "digits", "production", "1")
    assert changed["aliases"] == {"production": "models/digits/versions/1"}
    assert "aliases" not in lepton.json("model", "alias", "digits", "production", "--delete")
    assert lepton("model", "alias", "digits", "production").code == 2
    assert lepton.ok("model", "delete", "digits", "-y").err == "deleted models/digits\n"
    assert lepton("model", "get", "digits").code == 3


def test_a_job_from_a_file(gateway: Gateway, lepton: Command, spec: Path) -> None:
    job = lepton.json("job", "create", "-f", spec, "--id", "mine")
    assert job["name"] == "jobs/mine"
    assert job["spec"]["seed"] == 7
    assert job["spec"]["hyperparameters"] == {"epochs": 2}
    assert lepton.ok("job", "list", "-o", "name").out == "jobs/mine\n"
    assert lepton.json("job", "get", "mine")["state"] == "SUCCEEDED"
    assert lepton.json("job", "pause", "mine")["state"] == "PAUSED"
    assert lepton.json("job", "resume", "mine")["state"] == "QUEUED"
    assert lepton.json("job", "cancel", "mine")["state"] == "CANCELLED"
    assert lepton.ok("job", "delete", "mine", "--yes").err == "deleted jobs/mine\n"
    assert lepton.json("job", "list") == []


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
def test_a_job_that_has_ended_is_not_said_to_be_cancelled(
    state: str, gateway: Gateway, lepton: Command, spec: Path
) -> None:
    lepton("job", "create", "-f", spec, "--id", "mine")
    gateway.training.jobs["jobs/mine"].state = training_pb2.Job.State.Value(state)
    done = lepton.ok("job", "cancel", "mine", "-o", "name")
    assert (done.out, done.err) == ("jobs/mine\n", f"jobs/mine had ended already, as {state}\n")


def test_why_a_job_waits_and_what_became_of_its_attempts(
    gateway: Gateway, lepton: Command, spec: Path
) -> None:
    """Beside the table, for people."""
    lepton("job", "create", "-f", spec, "--id", "mine")
    job = gateway.training.jobs["jobs/mine"]
    job.queue_position, job.waiting_reason = 2, "waits for 2 cores, where 1 is free"
    assert lepton.ok("job", "get", "mine").err == (
        "number 2 in the queue: waits for 2 cores, where 1 is free\n"
    )
    job.ClearField("queue_position")
    killed = {"number": 1, "reason": "WORKER_KILLED", "message": "SIGKILL without a word"}
    job.history.add(**killed)
    job.history.add(number=2)
    told = lepton.ok("job", "get", "mine").err
    assert told.startswith("attempt 1, ")
    assert told.endswith(": WORKER_KILLED: SIGKILL without a word\n")


def test_a_stored_checkpoint_is_shown_and_written(
    gateway: Gateway, lepton: Command, spec: Path, tmp_path: Path
) -> None:
    """Its artifact beside the job; the file as storage has it."""
    lepton("job", "create", "-f", spec, "--id", "mine")
    target = tmp_path / "mine.pt"
    without = lepton("job", "checkpoint", "mine", target)
    assert (without.code, target.exists()) == (2, False)
    assert "jobs/mine has no checkpoint in storage" in without.err
    stored = gateway.training.jobs["jobs/mine"].checkpoint
    stored.artifact = "artifacts/7f"
    stored.store_time.FromJsonString("2026-01-02T03:04:05Z")
    gateway.storage.artifacts["artifacts/7f"] = b"weights"
    assert lepton.ok("job", "get", "mine").err.endswith(": artifacts/7f\n")
    assert lepton.json("job", "get", "mine")["checkpoint"]["artifact"] == "artifacts/7f"
    assert lepton.ok("job", "checkpoint", "mine", target).err.startswith(f"wrote {target}, of ")
    assert target.read_bytes() == b"weights"


def test_a_job_from_standard_input(gateway: Gateway, lepton: Command) -> None:
    done = lepton.ok("job", "create", "-f", "-", "-o", "name", stdin=json.dumps({"recipe": "cnn"}))
    assert done.out == "jobs/j1\n"


def test_code_of_ones_own_is_uploaded(gateway: Gateway, lepton: Command, tmp_path: Path) -> None:
    """From the folder that the spec names; the same code is sent once."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "__init__.py").write_text("def train(context): ...\n")
    (tmp_path / "pins.txt").write_text("six==1.17.0\n")
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "code: {directory: net, entry_point: 'net:train', processes: 4}\n"
        "python: {requirements_file: pins.txt}\n"
        "dataset: datasets/mnist/versions/1\n"
    )
    for number in range(2):
        made = lepton.json("job", "create", "-f", spec)["spec"]
        assert made["code"] == {
            "artifact": f"artifacts/a{number}",
            "entry_point": "net:train",
            "processes": 4,
        }
        assert made["python"] == {"requirements": "six==1.17.0\n"}
    first, second = gateway.storage.made
    assert (first.media_type, first.filename) == ("application/zip", "net.zip")
    assert first.sha256 == second.sha256 and len(gateway.storage.blobs) == 1
    assert "net:train" in lepton.ok("job", "list").out
    (tmp_path / "net" / "link").symlink_to(spec)
    done = lepton("job", "create", "-f", spec)
    assert (done.code, "is a link" in done.err) == (2, True)


def test_a_spec_that_is_only_checked(gateway: Gateway, lepton: Command, spec: Path) -> None:
    done = lepton.ok("job", "create", "-f", spec, "--validate-only")
    assert (done.out, done.err) == ("", "the spec is valid\n")
    checked = lepton.json("job", "create", "-f", spec, "--validate-only")
    assert checked["spec"]["recipe"] == "cnn"
    assert gateway.training.jobs == {}


@pytest.mark.parametrize("words", [("create", "-f", "SPEC", "--follow"), ("watch", "j1")])
def test_a_followed_job_decides_the_exit_code(
    words: tuple[str, ...], gateway: Gateway, lepton: Command, spec: Path
) -> None:
    words = tuple(str(spec) if word == "SPEC" else word for word in words)
    gateway.training.add("j1")
    done = lepton.ok("job", *words, "-o", "json")
    assert done.json["state"] == "SUCCEEDED"
    assert done.err == ""
    gateway.training.ends = training_pb2.Job.FAILED
    gateway.training.add("j1")
    done = lepton("job", *words, "-o", "json")
    assert done.code == 1
    assert done.json["state"] == "FAILED"
    assert done.err == "lepton: jobs/j1 FAILED: wants less batch [OUT_OF_MEMORY]\n"


def test_the_end_of_a_failed_jobs_log_follows_the_line_that_says_why(
    gateway: Gateway, lepton: Command
) -> None:
    job = gateway.training.add("j1")
    job.state = training_pb2.Job.FAILED
    job.failure_reason, job.failure_message = "WORKER_DIED", "it ended:\n  one\n\x1b[2Jtwo"
    assert lepton("job", "watch", "j1").err.splitlines() == [
        "lepton: jobs/j1 FAILED: it ended [WORKER_DIED]",
        "  one",
        "[2Jtwo",
    ]
    job.state = training_pb2.Job.CANCELLED
    job.failure_reason = job.failure_message = ""
    done = lepton("job", "watch", "j1")
    assert (done.code, done.err) == (1, "lepton: jobs/j1 CANCELLED [CANCELLED]\n")


def test_logs_are_printed_as_they_are(gateway: Gateway, lepton: Command) -> None:
    gateway.training.lines = ["epoch 1", "", "  indented"]
    assert lepton.ok("job", "logs", "j1", "-f").out == "epoch 1\n\n  indented\n"


def test_recipes(gateway: Gateway, lepton: Command) -> None:
    assert lepton.ok("job", "recipes", "-o", "name").out == "cnn\n"
    assert "epochs=5" in lepton.ok("job", "recipes").out


def test_one_recipe_tells_all(gateway: Gateway, lepton: Command) -> None:
    told = lepton.ok("job", "recipes", "cnn").out
    assert told.startswith("small\n\nThree\n\nconvolutions.\n")
    assert "hyperparameters.epochs  int, 5" in told
    assert "data.target  string, must be given\n    What." in told
    done = lepton("job", "recipes", "cnnn")
    assert done.code != 0 and "no recipe 'cnnn'; `lepton job recipes` lists them" in done.err


def test_endpoints(gateway: Gateway, lepton: Command, tmp_path: Path) -> None:
    path = tmp_path / "endpoint.yaml"
    created = lepton.json("endpoint", "create", "digits", "--model", "digits/1", "--max-queue", 9)
    assert created["state"] == "READY"
    assert created["batching"] == {"max_queue": 9}
    started = lepton.json("endpoint", "create", "other", "--model", "digits/1", "--no-wait")
    assert started["state"] == "DEPLOYING"
    assert lepton.ok("endpoint", "list", "-o", "name").out.split() == [
        "endpoints/digits",
        "endpoints/other",
    ]
    changed = lepton.json("endpoint", "update", "digits", "--max-delay-us", 50)
    assert changed["batching"] == {"max_queue": 9, "max_delay_us": 50}
    changed = lepton.json("endpoint", "update", "digits", "--model", "digits/2")
    assert [target["model_version"] for target in changed["targets"]] == [
        "models/digits/versions/2"
    ]
    changed = lepton.json("endpoint", "update", "digits", "--max-delay-us", 0)
    assert changed["batching"] == {"max_queue": 9}
    path.write_text("response_cache_bytes: 65536")
    changed = lepton.json("endpoint", "update", "digits", "-f", path)
    assert changed["response_cache_bytes"] == 65536
    path.write_text("response_cache_bytes: 0")
    assert "response_cache_bytes" not in lepton.json("endpoint", "update", "digits", "-f", path)
    assert lepton.json("endpoint", "get", "endpoints/digits")["name"] == "endpoints/digits"
    gateway.inference.ends = inference_pb2.Endpoint.DEPLOYING
    lepton.ok("endpoint", "create", "third", "--model", "digits/1", "--no-wait")
    told = lepton.ok("endpoint", "get", "third").out
    assert "DEPLOYING (fetching models/digits/versions/1)" in told
    gateway.inference.ends = inference_pb2.Endpoint.READY
    assert lepton.json("endpoint", "unload", "digits")["state"] == "UNLOADED"
    changed = lepton.json("endpoint", "update", "digits", "--max-queue", 3)  # waits for nothing
    assert changed["unloaded"] is True
    assert lepton.json("endpoint", "load", "digits")["state"] == "READY"
    assert lepton.ok("endpoint", "delete", "digits", "--yes").err == "deleted endpoints/digits\n"


def test_the_list_says_what_an_endpoint_is_made_of(
    gateway: Gateway, lepton: Command, tmp_path: Path
) -> None:
    path = tmp_path / "endpoint.yaml"
    path.write_text(
        "targets: [{model_version: models/digits/versions/1}]\n"
        "shadow: {model_version: models/digits/versions/2, percent: 12.5}\n"
        "response_cache_bytes: 65536\n"
    )
    lepton.ok("endpoint", "create", "plain", "-f", path)
    path.write_text(
        "ensemble:\n"
        "  steps: [{endpoint: first, inputs: {x: x}, outputs: {y: m}},\n"
        "          {endpoint: digits, inputs: {x: m}, outputs: {y: y}}]\n"
        "  outputs: [y]\n"
    )
    lepton.ok("endpoint", "create", "reader", "-f", path)
    told = lepton.ok("endpoint", "list").out
    assert "models/digits/versions/1, models/digits/versions/2 (shadow, 12.5%), cached" in told
    assert "ensemble of first, digits" in told
    path.write_text("shadow: {}")
    changed = lepton.json("endpoint", "update", "plain", "-f", path)
    assert not changed.get("shadow")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.array([[1, 2], [3, 4]], np.uint8))
    return path


def test_infer_takes_arrays_json_and_requests(
    gateway: Gateway, lepton: Command, images: Path, tmp_path: Path
) -> None:
    expected = {"scores": [[2.0, 4.0], [6.0, 8.0]]}
    assert lepton.json("infer", "digits", "-i", images) == expected
    assert lepton.ok("infer", "digits", "-i", images, "-o", "name").out == "scores\n"
    assert lepton.json("infer", "digits", "-i", f"image={images}") == expected
    nested = tmp_path / "images.json"
    nested.write_text("[[1, 2], [3, 4]]")
    assert lepton.json("infer", "digits", "-i", nested) == expected
    tensor = {"name": "image", "shape": [2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]}
    request = json.dumps({"inputs": [tensor]})
    assert lepton.json("infer", "digits", "-f", "-", stdin=request) == expected


def test_infer_prints_for_people(gateway: Gateway, lepton: Command, images: Path) -> None:
    out = lepton.ok("infer", "digits", "-i", images).out
    assert out.splitlines()[0] == "scores  FP32 [2, 2]"
    assert "argmax  [1, 1]" in out


def test_login_keeps_what_comes_next(
    gateway: Gateway, lepton: Command, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a folder where the CA file's relative name means nothing."""
    monkeypatch.chdir(gateway.ca_file.parent)
    done = lepton.ok(
        *("login", f"https://{gateway.address}/", "--user", "root", "--ca-file", "ca.pem"),
        *("--password", PASSWORD),
    )
    assert done.out == ""
    assert "logged in as root (admin in default); profile default" in done.err
    monkeypatch.chdir("/")
    for _ in range(2):
        assert lepton.ok("whoami", "-o", "name").out == "users/root\n"
    profile = load_profile()
    assert profile.refresh_token == gateway.auth.refresh_token
    assert profile.address == gateway.address
    assert PASSWORD not in config.read_text()
    assert lepton.ok("--profile", "test", "whoami", "-o", "name").out == "users/root\n"
    assert load_profile() == profile
    assert lepton.ok("logout").err == "forgot profile default\n"
    assert load_profile() == gateway.profile


def test_the_workspace_is_passed_on(gateway: Gateway, lepton: Command) -> None:
    lepton.ok("--workspace", "lab", "whoami")
    assert gateway.auth.issued[0].workspace == "lab"


def test_users_and_keys(gateway: Gateway, lepton: Command) -> None:
    user = lepton.json(
        *("user", "create", "ann", "--role", "viewer", "--display-name", "A\x1b[31m\nnn"),
        *("--password", PASSWORD),
    )
    assert user["role"] == "ROLE_VIEWER"
    assert "password" not in user
    table = lepton.ok("user", "list").out
    assert "A[31m nn" in table
    assert "\x1b" not in table
    assert lepton.json("user", "set-role", "ann", "admin")["role"] == "ROLE_ADMIN"
    assert "users/ann  none" in lepton.ok("user", "set-role", "ann", "none").out
    assert lepton.ok("user", "set-password", "ann", "--password", PASSWORD).out == ""
    assert lepton.ok("user", "delete", "ann", "--yes").err == "deleted users/ann\n"

    done = lepton.ok("key", "create", "--role", "viewer", "--days", 7, "--display-name", "ci")
    assert done.out == "lpk_new\n"
    (key,) = lepton.json("key", "list")
    assert (key["name"], key["role"]) == ("apiKeys/k1", "ROLE_VIEWER")
    assert "expire_time" in key
    assert "lpk_new" not in lepton.ok("key", "list").out
    assert lepton.json("key", "create")["secret"] == "lpk_new"
    assert lepton.ok("key", "delete", "k1", "--yes").err == "deleted apiKeys/k1\n"


@pytest.mark.parametrize(
    "words", [(noun, "delete", "x") for noun in ("data", "endpoint", "job", "key", "model", "user")]
)
def test_what_cannot_be_undone_is_not_done_unasked(
    words: tuple[str, ...], gateway: Gateway, lepton: Command
) -> None:
    done = lepton(*words)
    assert done.code == 2
    assert "--yes" in done.err
