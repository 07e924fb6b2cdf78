"""One table of what goes wrong: the exit code, the one line on stderr, nothing on stdout."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme

from lepton.api.inference.v1 import inference_pb2
from lepton.client import Profile, save_profile
from tests.unit.cli.conftest import LEPTON, Command, process
from tests.unit.sdk.fake_gateway import Gateway, Refusal


def assert_told(code: int, out: str, err: str, expected: int, told: str) -> None:
    assert (code, out) == (expected, ""), err
    assert err.startswith("lepton: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert told in err
    assert re.search(r" \[[A-Z_]+\]\n$", err)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that are not what they should be."""
    texts = {
        "list.yaml": "- recipe\n",
        "broken.yaml": "recipe: [\nseed: 1\n",
        "tab.yaml": "a: b\n\tc: d\n",
        "unknown.yaml": "recipee: cnn\n",
        "type.yaml": "recipe: cnn\nseed: many\n",
        "recipe.yaml": "recipe: forest\n",
        "keys.yaml": "3: 4\n",
        "twice.yaml": "recipe: mlp\nrecipe: cnn\n",
        "broken.json": '{"a": \n',
        "early.json": "[1,",
        "words.json": "[1, yes]",
        "deep.json": "[" * 100_000,
        "digits.json": "9" * 5000,
        "deep.yaml": "[" * 5000,
        "date.yaml": "seed: 2024-99-99\n",
        "ragged.json": "[[1, 2], [3]]",
        "float.json": "[[0.5, 1]]",
        "large.json": "[[300, 1]]",
        "text.json": '[["1", "2"]]',
        "three.json": "[[1, 2, 3]]",
        "empty_request.json": "{}",
        "no_mapping.json": "[1]",
        "shape.json": '{"inputs": [{"name": "image", "shape": [3, 2], "datatype": "UINT8", '
        '"data": [1]}]}',
        "datatype.json": '{"inputs": [{"name": "image", "shape": [1], "datatype": "FP8", '
        '"data": [1]}]}',
        "bare.json": '{"inputs": [1]}',
        "field.json": '{"inputs": [{"name": "image", "shape": [1], "datatype": "UINT8"}]}',
        "kind.json": '{"inputs": [{"name": "image", "shape": [1], "datatype": 8, "data": [1]}]}',
        "negative.json": '{"inputs": [{"name": "image", "shape": [-1], "datatype": "UINT8", '
        '"data": [1]}]}',
        "text.npy": "not an array",
        "zip.npy": "PK\x03\x04",
        "empty.npy": "",
        "model.txt": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00recipe")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((1, 2), np.complex64))
    np.save(tmp_path / "wide.npy", np.zeros((1, 3), np.uint8))
    np.save(tmp_path / "float.npy", np.zeros((1, 2), np.float32))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=np.zeros(1))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "caf\udce9").write_text("")  # bytes that are not UTF-8
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "list.yaml").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        # Usage.
        ("nonsense", 2, "No such command 'nonsense'"),
        ("--nonsense", 2, "No such option"),
        ("data get", 2, "Missing argument 'VERSION'; see `lepton data get --help`"),
        ("data list -o xml", 2, "'xml' is not one of"),
        ("login localhost --user u --password p", 2, "give host:port"),
        ("login http://localhost:1 --user u --password p", 2, "TLS only"),
        ("login h:1 --user u --password p --ca-file {d}/gone", 2, "gone"),
        ("login h:1 --user u", 2, "no password; put it in LEPTON_PASSWORD"),
        ("user create ann", 2, "no password; put it in LEPTON_PASSWORD"),
        ("endpoint update digits", 2, "nothing to change"),
        ("endpoint create e --model m --max-queue -1", 2, "-1"),
        ("endpoint create e --model m --max-batch-rows 99999999999", 2, "2147483647"),
        ("infer digits", 2, "give the inputs"),
        ("infer digits -i a.npy -f b.json", 2, "give the inputs"),
        ("key create --days 0", 2, "--days"),
        ("completion tcsh", 2, "tcsh"),
        # Files.
        ("data push mine {d}/gone", 2, "gone"),
        ("data push mine {d}/nothing", 2, "no files in"),
        ("data push mine {d}/latin", 2, "is not text in UTF-8; rename it"),
        ("data push mine {d}/list.yaml {d}/other", 2, "would both be list.yaml"),
        ("job create -f {d}/gone.yaml", 2, "gone.yaml"),
        ("job create -f {d}", 2, "is a directory"),
        ("job create -f {d}/list.yaml", 2, "is not a mapping"),
        ("job create -f {d}/broken.yaml", 2, "is not YAML"),
        (
            "job create -f {d}/tab.yaml",
            2,
            "tab.yaml is not YAML at line 2; correct the indentation",
        ),
        ("job create -f {d}/deep.yaml", 2, "deep.yaml is nested too deep"),
        ("job create -f {d}/date.yaml", 2, "a date or a number that cannot be"),
        ("job create -f {d}/binary.yaml", 2, "not text in UTF-8"),
        ("job create -f {d}/keys.yaml", 2, "the job spec is not valid"),
        ("job create -f {d}/twice.yaml", 2, "the key 'recipe' is there twice at line 2"),
        ("job create -f {d}/unknown.yaml", 2, "recipee: there is no such field"),
        ("job create -f {d}/unknown.yaml", 2, "in the rest of it, spec.recipe: no recipe ''"),
        ("job create -f {d}/type.yaml", 2, "seed"),
        ("job create -f {d}/recipe.yaml", 2, "no recipe 'forest'"),
        ("job create -f -", 2, "is not a mapping"),
        # Tensors.
        ("infer digits -i {d}/gone.npy", 2, "gone.npy: No such file"),
        ("infer digits -i {d}/gone.json", 2, "gone.json: No such file"),
        ("infer digits -i {d}/gone", 2, "gone: No such file or directory [FILE_UNREADABLE]"),
        ("infer digits -i {d}/other", 2, "other is a folder; give a file"),
        ("infer digits -i {d}/wide.npy -i {d}/wide.npy", 2, "image is given twice"),
        ("infer digits -i {d}/model.txt", 2, "neither .npy nor .json"),
        ("infer digits -i {d}/text.npy", 2, "not an .npy file"),
        ("infer digits -i {d}/empty.npy", 2, "not an .npy file"),
        ("infer digits -i {d}/zip.npy", 2, "not an .npy file"),
        ("infer digits -i {d}/objects.npy", 2, "not an .npy file"),
        ("infer digits -i {d}/archive.npy", 2, "archive"),
        ("infer digits -i {d}/complex.npy", 2, "dtype complex64"),
        ("infer digits -i {d}/wide.npy", 2, "must be UINT8 [-1, 2]"),
        ("infer digits -i {d}/float.npy", 2, "must be UINT8 [-1, 2]"),
        ("infer digits -i {d}/broken.json", 2, "it ends at line 2, column 1, before it is whole"),
        ("infer digits -i {d}/early.json", 2, "it ends at line 1, column 4, before it is whole"),
        ("infer digits -i {d}/words.json", 2, "is not JSON at line 1, column 5; correct the comma"),
        ("infer digits -i {d}/deep.json", 2, "deep.json is nested too deep"),
        ("infer digits -i {d}/digits.json", 2, "a number of too many digits"),
        ("infer digits -i {d}/binary.json", 2, "not text in UTF-8"),
        ("infer digits -i {d}/ragged.json", 2, "a UINT8 tensor: [0] and [1] are not of one shape"),
        ("infer digits -i {d}/float.json", 2, "the value 0.5 at [0][0] is no whole number"),
        ("infer digits -i {d}/large.json", 2, "the value 300 at [0][0] is out of its range"),
        ("infer digits -i {d}/text.json", 2, 'the value "1" at [0][0] is no whole number'),
        ("infer digits -i {d}/three.json", 2, "must be UINT8 [-1, 2]"),
        ("infer digits -i picture={d}/wide.npy", 2, "no input picture; the endpoint has image"),
        ("infer digits -f {d}/empty_request.json", 2, 'is not a request: it has no list "inputs"'),
        ("infer digits -f {d}/no_mapping.json", 2, "is not a request"),
        ("infer digits -f {d}/bare.json", 2, "inputs[0] is not an object with fields; a request"),
        ("infer digits -f {d}/field.json", 2, 'inputs[0] has no "data"; a request looks like'),
        ("infer digits -f {d}/kind.json", 2, "inputs[0].datatype is not text; a request looks"),
        ("infer digits -f {d}/negative.json", 2, "inputs[0].shape is not a list of whole numbers"),
        (
            "infer digits -f {d}/shape.json",
            2,
            "inputs[0]: the shape [3, 2] takes 6 values, and data has 1",
        ),
        ("infer digits -f {d}/datatype.json", 2, "FP8"),
        # What is not there.
        ("data get gone", 3, "datasets/gone"),
        ("model get gone", 3, "models/gone does not exist [NOT_FOUND]"),
        ("model get digits/7", 3, "models/digits/versions/7"),
        ("job get gone", 3, "jobs/gone"),
        ("job logs gone --workspace", 2, "--workspace"),
        ("endpoint delete gone --yes", 3, "endpoints/gone"),
        ("key delete gone --yes", 3, "apiKeys/gone"),
        ("infer gone -i {d}/wide.npy", 3, "`lepton endpoint list` shows"),
        # Who calls.
        ("logout gone", 2, "there is no profile 'gone'"),
        ("--profile gone whoami", 2, "no profile gone"),
        ("login {a} --user u --password wrong --ca-file {d}/ca.pem", 4, "CREDENTIAL_INVALID"),
    ],
)
def test_bad_input(
    *, words: str, code: int, told: str, gateway: Gateway, lepton: Command, folder: Path
) -> None:
    done = lepton(*(word.format(d=folder, a=gateway.address) for word in words.split()))
    assert_told(done.code, done.out, done.err, code, told)


STATUSES = {
    "INVALID_ARGUMENT": 2,
    "FAILED_PRECONDITION": 2,
    "OUT_OF_RANGE": 2,
    "ALREADY_EXISTS": 2,
    "NOT_FOUND": 3,
    "UNAUTHENTICATED": 4,
    "PERMISSION_DENIED": 4,
    "UNAVAILABLE": 5,
    "DEADLINE_EXCEEDED": 5,
    "RESOURCE_EXHAUSTED": 1,
    "ABORTED": 1,
    "UNIMPLEMENTED": 1,
    "INTERNAL": 1,
    "DATA_LOSS": 1,
}


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_has_its_exit_code(status: str, gateway: Gateway, lepton: Command) -> None:
    gateway.refusals["ListModels"] = Refusal(
        grpc.StatusCode[status], "SOME_REASON", "the thing;\nthe remedy"
    )
    done = lepton("model", "list")
    assert_told(done.code, done.out, done.err, STATUSES[status], "the thing; the remedy")
    assert "[SOME_REASON]" in done.err


def test_an_endpoint_that_exists_already(gateway: Gateway, lepton: Command) -> None:
    lepton.ok("endpoint", "create", "digits", "--model", "digits")
    done = lepton("endpoint", "create", "digits", "--model", "digits")
    assert_told(done.code, done.out, done.err, 2, "`lepton endpoint update` changes it")


def test_an_endpoint_that_does_not_come_up(gateway: Gateway, lepton: Command) -> None:
    gateway.inference.ends = inference_pb2.Endpoint.FAILED
    done = lepton("endpoint", "create", "digits", "--model", "digits")
    assert_told(done.code, done.out, done.err, 1, "DIGEST_MISMATCH")


def no_profile(gateway: Gateway, config: Path) -> None:
    config.unlink()


def broken_profile(gateway: Gateway, config: Path) -> None:
    config.write_text("{")


def no_ca(gateway: Gateway, config: Path) -> None:
    gateway.ca_file.unlink()


def foreign_ca(gateway: Gateway, config: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(gateway.ca_file))


def nobody_there(gateway: Gateway, config: Path) -> None:
    save_profile("test", Profile("localhost:1", ca_file=str(gateway.ca_file), api_key="k"))


def unknown_host(gateway: Gateway, config: Path) -> None:
    save_profile("test", Profile("gone.invalid:8443", ca_file=str(gateway.ca_file), api_key="k"))


def no_port(gateway: Gateway, config: Path) -> None:
    save_profile("test", Profile("localhost", ca_file=str(gateway.ca_file), api_key="k"))


def revoked_key(gateway: Gateway, config: Path) -> None:
    save_profile("test", Profile(gateway.address, ca_file=str(gateway.ca_file), api_key="gone"))


def spent_login(gateway: Gateway, config: Path) -> None:
    profile = Profile(gateway.address, ca_file=str(gateway.ca_file), refresh_token="spent")
    save_profile("test", profile)


def no_credential(gateway: Gateway, config: Path) -> None:
    save_profile("test", Profile(gateway.address, ca_file=str(gateway.ca_file)))


WAYS: list[tuple[Callable[[Gateway, Path], None], int, str]] = [
    (no_profile, 2, "start a local stack with `lepton up`, or log in"),
    (broken_profile, 2, "is not YAML"),
    (no_ca, 2, "cannot be read"),
    (foreign_ca, 5, "the gateway's certificate is not one"),
    (nobody_there, 5, "the gateway cannot be reached (Connection refused"),
    (unknown_host, 5, "no machine is known by the name in gone.invalid:8443; check it"),
    (no_port, 2, "'localhost' is no address of a gateway; give host:port"),
    (revoked_key, 4, "[CREDENTIAL_INVALID]"),
    (spent_login, 4, "log in again"),
    (no_credential, 4, "lepton login"),
]


@pytest.mark.parametrize("words", [["model", "list"], ["job", "logs", "j1"]])
@pytest.mark.parametrize(("set_up", "code", "told"), WAYS)
def test_ways_to_the_gateway_that_do_not_hold(
    *,
    set_up: Callable[[Gateway, Path], None],
    code: int,
    told: str,
    words: list[str],
    gateway: Gateway,
    config: Path,
    lepton: Command,
) -> None:
    set_up(gateway, config)
    done = lepton(*words)
    assert_told(done.code, done.out, done.err, code, told)


def test_nothing_else_writes_to_stderr(gateway: Gateway, config: Path) -> None:
    """gRPC's own log lines, which only a process of its own shows."""
    foreign_ca(gateway, config)
    running = process("model", "list")
    out, err = running.communicate(timeout=30)
    assert_told(running.returncode, out, err, 5, "the gateway's certificate is not one")


def test_a_disk_that_is_full(gateway: Gateway) -> None:
    """/dev/full is one."""
    with Path("/dev/full").open("w") as full:
        running = process("model", "list", stdout=full)
        _, err = running.communicate(timeout=30)
    assert_told(
        running.returncode, "", err, 1, "standard output: No space left on device; not all of"
    )
    assert err.endswith(" [DISK_FULL]\n")


def test_a_bug_keeps_its_traceback(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected is not dressed up as a user's mistake."""
    from lepton.cli import main
    from lepton.client.models import ModelClient

    def bug(self: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ModelClient, "list", bug)
    monkeypatch.setattr("sys.argv", ["lepton", "model", "list"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_the_same_in_a_process_of_its_own(config: Path) -> None:
    done = subprocess.run([LEPTON, "whoami"], capture_output=True, text=True, check=False)
    assert_told(done.returncode, done.stdout, done.stderr, 2, "no profile is current")
