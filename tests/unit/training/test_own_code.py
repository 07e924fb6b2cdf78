"""A user's own code in a spec, on its way, unpacked, and what it reports."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lepton.client import LocalCode, SpecError, TransferError
from lepton.client.code import pack_code
from lepton_training.events import EventWriter, read_events
from lepton_training.requirements import environment_digest, requirement_faults
from lepton_training.spec import JobSpecInvalid, parse_spec
from lepton_training.worker.own import archive
from lepton_training.worker.own import job as own_job
from lepton_training.worker.own.entry import _described
from lepton_training.worker.own.errors import CodeInvalid, MetricsInvalid
from lepton_training.worker.own.job import Reports

GOOD: dict[str, Any] = {
    "code": {"artifact": "artifacts/7f", "entry_point": "net.train:train", "data_kind": "images"},
    "dataset": "datasets/mnist/versions/1",
    "model": "models/digits",
    "hyperparameters": {"width": 8.0, "rate": 0.5, "layers": [{"units": 3.0}]},
}
MODULE = {"artifact": "artifacts/7f", "module": "net:build", "data_kind": "table"}
HASH = "--hash=sha256:" + "a" * 64


def faults(document: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(JobSpecInvalid) as caught:
        parse_spec(document, cores=2)
    return dict(caught.value.faults)


def test_a_spec_of_own_code_is_read_back() -> None:
    """Whole numbers are whole, whichever way they came; defaults are filled in."""
    spec = parse_spec(GOOD, cores=2)
    assert spec.code is not None and spec.recipe == "" and spec.data_kind is not None
    assert spec.code.processes == 64
    assert json.dumps(spec.hyperparameters.model_dump(), sort_keys=True) == (
        '{"layers": [{"units": 3}], "rate": 0.5, "width": 8}'
    )
    assert parse_spec(spec.to_dict(), cores=2) == spec
    module = parse_spec(
        GOOD
        | {
            "code": MODULE | {"arguments": {"width": 8.0}},
            "data": {"target": "y", "task": "regression"},
            "hyperparameters": {"loss": "huber", "epochs": 3},
        },
        cores=2,
    )
    assert module.code is not None and module.code.arguments == {"width": 8}
    assert module.hyperparameters.model_dump()["huber_delta"] == 1.0
    assert parse_spec(module.to_dict(), cores=2) == module


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"recipe": "cnn"}, "spec.recipe", "cannot be given with code"),
        (
            {"warm_start": {"model_version": "models/m/versions/1"}},
            "spec.warm_start",
            "is for recipes",
        ),
        ({"evaluation": {"explanations": 3}}, "spec.evaluation.explanations", "no gradients"),
        ({"data": {"features": ["edges"]}}, "spec.data.features", "no effect with entry_point"),
        ({"code": {"entry_point": "a:b"}}, "spec.code.artifact", "must be given"),
        (
            {"code": {"artifact": "models/x", "entry_point": "a:b"}},
            "spec.code.artifact",
            "artifacts/{artifact}",
        ),
        ({"code": {"artifact": "artifacts/7f"}}, "spec.code", "either entry_point"),
        ({"code": MODULE | {"entry_point": "a:b"}}, "spec.code", "either entry_point"),
        ({"code": MODULE | {"module": "net.build"}}, "spec.code.module", "package.module:function"),
        ({"code": MODULE | {"module": "../net:x"}}, "spec.code.module", "package.module:function"),
        ({"code": MODULE | {"data_kind": ""}}, "spec.code.data_kind", "must be given with module"),
        ({"code": MODULE | {"data_kind": "movies"}}, "spec.code.data_kind", "one of images"),
        (
            {"code": MODULE | {"data_kind": "image_generation"}},
            "spec.code.data_kind",
            "one of images",
        ),
        ({"code": MODULE | {"arguments": {"a b": 1}}}, "spec.code.arguments.a b", "no name"),
        (
            {"code": GOOD["code"] | {"arguments": {"a": 1}}},
            "spec.code.arguments",
            "hyperparameters instead",
        ),
        ({"code": MODULE | {"processes": 9999}}, "spec.code.processes", "between 1 and 4096"),
        ({"code": MODULE | {"proceses": 1}}, "spec.code.proceses", "did you mean 'processes'"),
        (
            {"code": MODULE, "hyperparameters": {"epoch": 1}, "data": {"target": "y"}},
            "spec.hyperparameters.epoch",
            "did you mean 'epochs'",
        ),
        ({"code": MODULE, "hyperparameters": {}}, "spec.data.target", "must be given"),
        (
            {
                "code": {"artifact": "artifacts/7f", "entry_point": "a:b"},
                "data": {"target": "y"},
            },
            "spec.data",
            "without code.data_kind",
        ),
        ({"python": {"requirements": "torch"}}, "spec.python.requirements", "torch is not pinned"),
        (
            {"python": {"requirements_file": "x"}},
            "spec.python.requirements_file",
            "did you mean 'requirements'?",
        ),
        (
            {"code": None, "recipe": "cnn", "python": {"requirements": "six==1.17.0"}},
            "spec.python",
            "for code only",
        ),
    ],
)
def test_what_is_wrong_with_own_code(change: dict[str, Any], path: str, message: str) -> None:
    assert message in faults(GOOD | change)[path]


def test_all_faults_are_told_together() -> None:
    document = {
        "code": {"entry_point": "train", "data_kind": "movies"},
        "python": {"requirements": "six\n-e .\n"},
        "dataset": "mnist",
        "resources": {"cpus": 99},
    }
    with pytest.raises(JobSpecInvalid) as caught:
        parse_spec(document, cores=2)
    assert [path for path, _ in caught.value.faults] == [
        "spec.code.artifact",
        "spec.code.entry_point",
        "spec.code.data_kind",
        "spec.python.requirements",
        "spec.python.requirements",
        "spec.dataset",
        "spec.model",
        "spec.resources.cpus",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("six==1.17.0\n", ""),
        ("# nothing\n\n  # more\n", ""),
        ('six==1.17.0 ; python_version > "3"  # why\nx[a,b]==2.0\n', ""),
        (f"six==1.17.0 \\\n    {HASH} \\\n    {HASH}\n", ""),
        ("six", "line 1: six is not pinned; write six==version"),
        ("six>=1", "line 1: six is not pinned"),
        ("six==1.*", "line 1: six is not pinned"),
        ("six==1,==1", "line 1: six is not pinned"),
        ("six @ https://x.invalid/six.whl", "line 1: six is not pinned"),
        ("\n-r other.txt", "line 2: '-r': options are not taken"),
        ("--index-url https://x.invalid", "options are not taken"),
        ("./folder", "is not written name==version"),
        ("six==1.17.0 --config-settings=x", "only --hash"),
        ("six==1.17.0 --hash=md5:00", "only --hash"),
        ("six==1.17.0\nSix==1.17.0", "line 2: six is in line 1 already"),
        (f"six==1.17.0 {HASH}\nx==1", "line 2: x has no --hash, and others have"),
        ("numpy==1.0.0", "and 1.0.0 is pinned; leave the line out or pin what is here"),
        ("x==1\n" * 20_000, "more than 64 KiB"),
    ],
)
def test_requirements_are_pinned(text: str, message: str) -> None:
    """Every line one package of one version, and none that the platform has in another."""
    found = requirement_faults(text)
    if message:
        assert any(message in fault.message for fault in found), found
    else:
        assert found == []


def test_an_environment_is_named_by_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments do not count; a version does, and so does one of the platform's own."""
    digest = environment_digest("six==1.17.0")
    assert environment_digest("# of old\nsix==1.17.0  # why\n") == digest
    assert environment_digest("six==1.16.0") != digest
    monkeypatch.setattr("lepton_training.requirements.base_versions", lambda: {"torch": "1.0"})
    assert environment_digest("six==1.17.0") != digest


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../out.py")],
        [entry("a/../../out.py")],
        [entry("/out.py")],
        [entry("a\\..\\out.py")],
        [entry("link", stat.S_IFLNK | 0o777)],
        [entry("device", stat.S_IFCHR | 0o600)],
        [entry("pipe", stat.S_IFIFO | 0o600)],
        [entry("a.py"), entry("a.py")],
        [entry("a"), entry("a/b.py")],
        [entry("a/b.py"), entry("a")],
        [entry("x\ny.py")],
        [entry("large.bin")],
    ],
    ids=lambda entries: entries[-1].filename,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_would_do_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[zipfile.ZipInfo]
) -> None:
    """Nothing lies outside of the folder afterwards; a bomb is stopped while it unfolds."""
    monkeypatch.setattr(archive, "BYTES_MAX", 1000)
    with zipfile.ZipFile(tmp_path / "code.zip", "w", zipfile.ZIP_DEFLATED) as content:
        for one in entries:
            content.writestr(one, b"x" * (5000 if one.filename == "large.bin" else 3))
    with pytest.raises(CodeInvalid):
        archive.unpack(tmp_path / "code.zip", tmp_path / "code")
    assert {path.name for path in tmp_path.iterdir()} == {"code.zip", "code"}
    written = [path for path in (tmp_path / "code").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in written) <= 1000
    assert not any(path.is_symlink() for path in written)


def test_a_folder_is_packed_and_unpacked(tmp_path: Path) -> None:
    """A package keeps its name; hidden and compiled files stay; the same files, the same bytes."""
    package = tmp_path / "net"
    (package / "inner" / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "inner/a.py", "inner/__pycache__/a.pyc", ".secret", "b.pyc"):
        (package / name).write_text(name)
    pack_code(package, tmp_path / "1.zip")
    archive.unpack(tmp_path / "1.zip", tmp_path / "code")
    files = sorted(
        path.relative_to(tmp_path / "code").as_posix()
        for path in (tmp_path / "code").rglob("*")
        if path.is_file()
    )
    assert files == ["net/__init__.py", "net/inner/a.py"]
    (package / "inner" / "a.py").touch()
    pack_code(package, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    (package / "__init__.py").unlink()
    pack_code(package, tmp_path / "3.zip")
    archive.unpack(tmp_path / "3.zip", tmp_path / "code")
    assert (tmp_path / "code" / "inner" / "a.py").exists()
    (package / "link.py").symlink_to("/etc/passwd")
    for folder, message in (
        (package, "is a link"),
        (tmp_path / "none", "is no folder"),
        (tmp_path / "code" / "inner" / "a.py", "is no folder"),
    ):
        with pytest.raises(TransferError, match=message):
            pack_code(folder, tmp_path / "4.zip")


def test_a_spec_names_local_files(tmp_path: Path) -> None:
    """They are found from the spec's folder, and do not reach the server."""
    (tmp_path / "requirements.txt").write_text("six==1.17.0\n")
    local = LocalCode.taken_from(
        {
            "code": {"directory": "net", "entry_point": "net:train"},
            "python": {"requirements_file": "requirements.txt"},
        },
        tmp_path,
    )
    assert local.directory == tmp_path / "net"
    assert local.mapping == {
        "code": {"entry_point": "net:train"},
        "python": {"requirements": "six==1.17.0\n"},
    }
    for wrong in ({"directory": 5}, {"directory": "net", "artifact": "artifacts/7f"}):
        with pytest.raises(SpecError, match=r"code\.directory"):
            LocalCode.taken_from({"code": wrong}, tmp_path)
    with pytest.raises(TransferError, match=r"none\.txt"):
        LocalCode.taken_from({"python": {"requirements_file": "none.txt"}}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"loss": float("inf")}},
        {"metrics": {"loss": "1"}},
        {"metrics": {"loss": True}},
        {"metrics": {"a b": 1.0}},
        {"metrics": {str(n): 1.0 for n in range(65)}},
        {"metrics": None},
        {"step": -1},
        {"step": 1.5},
        {"epoch": True},
        {"progress": float("nan")},
        {"progress": 10**400},
        {"metrics": {"loss": 10**400}},
        {"kind": "succeeded"},
    ],
    ids=str,
)
def test_what_is_no_measurement(tmp_path: Path, change: dict[str, Any]) -> None:
    message = {"kind": "measurement", "step": 1, "epoch": 1, "epochs": 1, "progress": 0.5}
    reports = Reports(EventWriter(tmp_path))
    with pytest.raises(MetricsInvalid):
        reports.take(message | {"metrics": {}} | change)
    reports.flush()
    assert read_events(tmp_path, 0) == []


def test_reports_are_not_too_many(tmp_path: Path) -> None:
    """Of a thousand at once the first, the epochs' ends and the last are told."""
    reports = Reports(EventWriter(tmp_path))
    for step in range(1, 1001):
        reports.take(
            {
                "kind": "measurement",
                "step": step,
                "epoch": 1 + step // 501,
                "epochs": 2,
                "progress": step / 1000,
                "metrics": {"loss": 1 / step},
                "epoch_end": step in (500, 1000),
            }
        )
    reports.flush()
    steps = [event.content["step"] for event in read_events(tmp_path, 0)]
    assert steps[0] == 1 and steps[-1] == 1000 and 500 in steps
    assert len(steps) < 20


def measurement(number: int, **metrics: float) -> dict[str, Any]:
    return {
        "kind": "measurement",
        "step": number,
        "epoch": number,
        "epochs": number,
        "progress": 0.5,
        "metrics": metrics,
        "epoch_end": True,
    }


def test_metrics_have_few_names(tmp_path: Path) -> None:
    """Of all reports together: the job's record has them all."""
    reports = Reports(EventWriter(tmp_path))
    for _ in range(2):
        for number in range(64):
            reports.take(measurement(1, **{f"m{number}": 1.0}))
    with pytest.raises(MetricsInvalid, match="more than 64 different metrics"):
        reports.take(measurement(1, m64=1.0))


def test_epochs_without_end_are_told_like_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record has the seconds of so many, and the events of the others are few."""
    monkeypatch.setattr(own_job, "EPOCHS_MAX", 20)
    reports = Reports(EventWriter(tmp_path))
    for number in range(1, 1001):
        reports.take(measurement(number))
    reports.flush()
    events = read_events(tmp_path, 0)
    assert sum(event.content["epoch_end"] for event in events) == 20
    assert events[-1].content["step"] == 1000 and len(events) < 40


def test_the_export_begins_once(tmp_path: Path) -> None:
    """Each beginning is in the job's record for good."""
    reports = Reports(EventWriter(tmp_path))
    reports.take({"kind": "exporting"})
    with pytest.raises(MetricsInvalid):
        reports.take({"kind": "exporting"})
    assert [event.content["phase"] for event in read_events(tmp_path, 0)] == ["EXPORTING"]


def test_what_is_told_of_a_value_is_short(tmp_path: Path) -> None:
    """A message has up to 256 KiB, and would be in the job's failure."""
    for change in ({"step": "x" * 10_000}, {"metrics": {"loss": ["x"] * 10_000}}):
        with pytest.raises(MetricsInvalid) as caught:
            Reports(EventWriter(tmp_path)).take(measurement(1) | change)
        assert len(caught.value.message) < 250


class Mute(Exception):
    """What a user may raise."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_without_a_text_has_a_reason(tmp_path: Path) -> None:
    """Its class is told, and the job does not fail with another one."""
    reason, message = _described(Mute(), tmp_path)
    assert (reason, message) == ("CODE_FAILED", "Mute: (its text cannot be had)")
