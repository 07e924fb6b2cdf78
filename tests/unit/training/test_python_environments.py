"""Python environments of users' code: built once, shared, kept within bounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lepton_training.requirements import environment_digest
from lepton_training.worker.own import environments
from lepton_training.worker.own.environments import Environments
from lepton_training.worker.own.errors import PythonEnvironmentFailed


def write_wheel(folder: Path, name: str, version: str, *, requires: str = "") -> None:
    """A package with one module that knows its version."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in (*files.items(), (f"{info}/RECORD", record)):
            wheel.writestr(path, text)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip finds packages, and nowhere else."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_an_environment_is_built_once(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several that want it at once one builds it; it has its packages and the service's."""
    write_wheel(wheels, "tinynet", "1.5")
    builds: list[Path] = []
    install = environments._install

    def counted(folder: Path, requirements: str, look: Callable[[], object]) -> None:
        builds.append(folder)
        install(folder, requirements, look)

    monkeypatch.setattr(environments, "_install", counted)
    root = tmp_path / "environments"
    digest = environment_digest("tinynet==1.5\n")
    (root / digest).mkdir(parents=True)  # what a killed build left
    pythons: list[Path] = []

    def use() -> None:
        with Environments(root, 1 << 30).python("tinynet==1.5\n") as python:
            pythons.append(python)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert set(pythons) == {root / digest / "bin" / "python"}
    told = subprocess.run(
        [pythons[0], "-c", "import tinynet, numpy; print(tinynet.VERSION, numpy.__file__)"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert told[0] == "1.5" and not Path(told[1]).is_relative_to(root)


def test_all_that_is_needed_must_be_pinned(tmp_path: Path, wheels: Path) -> None:
    """A dependency that the file does not name is not installed behind its back."""
    write_wheel(wheels, "tinynet", "1.5", requires="tinydep>=2")
    write_wheel(wheels, "tinydep", "2.0")
    root = tmp_path / "environments"
    with (
        pytest.raises(PythonEnvironmentFailed, match=r"tinynet 1\.5 requires tinydep"),
        Environments(root, 1 << 30).python("tinynet==1.5"),
    ):
        pass
    assert [path.suffix for path in root.iterdir()] == [".lock"]


def fake_build(self: Environments, folder: Path, requirements: str) -> None:
    folder.mkdir(parents=True)
    (folder / "complete.json").write_text(json.dumps({"size_bytes": 100}))


def test_what_was_not_used_for_longest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not what is in use, and not what is asked for."""
    monkeypatch.setattr(Environments, "_build", fake_build)
    kept = Environments(tmp_path, 300)
    names = [f"p{n}==1" for n in range(4)]
    marks = [tmp_path / environment_digest(name) / "complete.json" for name in names]
    for age, (name, mark) in enumerate(zip(names[:3], marks, strict=False)):
        with kept.python(name):
            pass
        os.utime(mark, (1000 + age, 1000 + age))
    with kept.python(names[0]):
        os.utime(marks[0], (1, 1))  # the oldest, and in use
        with kept.python(names[3]):
            assert [mark.exists() for mark in marks] == [True, False, True, True]
    with Environments(tmp_path, 100).python(names[2]):
        assert [mark.exists() for mark in marks] == [False, False, True, False]


def test_what_killed_builds_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next use of another environment; but not what is being built right now."""
    monkeypatch.setattr(Environments, "_build", fake_build)
    killed, building = tmp_path / "killed", tmp_path / "building"
    for folder in (killed, building):
        folder.mkdir()
        (folder / "half").write_text("half")
    with environments._lock_of_unused(tmp_path, "building") as unused:
        assert unused
        with Environments(tmp_path, 300).python("p==1"):
            assert (killed.exists(), building.exists()) == (False, True)
    with Environments(tmp_path, 300).python("p==1"):
        assert not building.exists()


def test_pip_ends_when_it_has_installed_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs, with the process that it starts: the disk is not filled first."""
    monkeypatch.setattr(environments, "_LOOK_SECONDS", 0.02)
    script = (
        "import os, time\n"
        "child = os.fork()\n"
        "if child: open('child', 'w').write(f'{child} ')\n"
        "time.sleep(600)"
    )

    def look() -> None:
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith(" "):
            raise PythonEnvironmentFailed("too much")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PythonEnvironmentFailed, match="too much"):
        environments._watched([sys.executable, "-c", script], os.environ, look)
    status = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")

    def gone() -> bool:
        return not status.exists() or ") Z " in status.read_text()

    # It has been killed; the kernel ends it once it next comes to run.
    deadline = time.monotonic() + 10
    while not gone() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone()


def test_without_requirements_it_is_the_service_own(tmp_path: Path) -> None:
    with Environments(tmp_path / "none", 1).python(" \n") as python:
        assert python.exists()
    assert not (tmp_path / "none").exists()
