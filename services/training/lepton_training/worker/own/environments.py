"""Python environments of users' code: built once for a requirements file, kept, and evicted.

An environment is a folder named by its digest (:func:`environment_digest`), made by the ``venv``
module, with the file's packages before those of the service. pip installs wheels and nothing
else, so that no code of theirs runs while it is built. A lock file beside each folder is held
shared by those who use it and exclusively by who builds or removes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import site
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from lepton_training.requirements import environment_digest, is_hashed
from lepton_training.worker.own.errors import PythonEnvironmentFailed

log = logging.getLogger(__name__)

_COMPLETE = "complete.json"
"""Written last: what lies in a folder without it is what a killed build left."""
_BUILD_SECONDS = 1800.0
_LOOK_SECONDS = 1.0
"""How often the size of what pip installs is looked at."""
_TOLD_LINES = 15
_PIP_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


class Environments:
    """The environments of this machine."""

    def __init__(self, root: Path, bytes_max: int) -> None:
        """
        Args:
            bytes_max: What all of them may take together; those not used for longest go first.
        """
        self._root = root
        self._bytes_max = bytes_max

    @contextmanager
    def python(self, requirements: str) -> Iterator[Path]:
        """The interpreter of an environment with ``requirements``, which stays meanwhile.

        Without any it is the service's own.

        Raises:
            PythonEnvironmentFailed: With the end of what pip said.
        """
        if not requirements.strip():
            yield Path(sys.executable)
            return
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = environment_digest(requirements)
        folder = self._root / digest
        with _lock_file(self._root, digest) as lock:
            while True:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if (folder / _COMPLETE).exists():
                    break
                # Not one step: whoever comes in between builds it, and is found out here.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (folder / _COMPLETE).exists():
                    self._build(folder, requirements)
            os.utime(folder / _COMPLETE)
            self._evict(digest)
            yield folder / "bin" / "python"

    def _build(self, folder: Path, requirements: str) -> None:
        log.info("building the Python environment %s", folder.name[:12])
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
            _show_base(folder)
            (folder / "requirements.txt").write_text(requirements)
            _install(folder, requirements, lambda: self._checked_size(folder))
            size = self._checked_size(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / _COMPLETE).write_text(json.dumps({"size_bytes": size}))
        log.info("built it in %.1f s, %d MiB", time.monotonic() - began, size >> 20)

    def _checked_size(self, folder: Path) -> int:
        size = _bytes_of(folder)
        if size > self._bytes_max:
            raise PythonEnvironmentFailed(
                f"the packages take {size >> 20} MiB, and all environments may take "
                f"{self._bytes_max >> 20}; leave some out, or raise LEPTON_JOB_ENVIRONMENTS_MIB"
            )
        return size

    def _evict(self, keep: str) -> None:
        """Removes what killed builds left, then those not used for longest until the rest fits.

        None that is in use, or being built.
        """
        for folder in self._root.iterdir():
            if folder.is_dir() and folder.name != keep and not (folder / _COMPLETE).exists():
                with _lock_of_unused(self._root, folder.name) as unused:
                    if unused and not (folder / _COMPLETE).exists():
                        shutil.rmtree(folder, ignore_errors=True)
                        log.info("removed the unfinished environment %s", folder.name[:12])
        found = []
        for mark in self._root.glob(f"*/{_COMPLETE}"):
            try:
                found.append(
                    (mark.stat().st_mtime, json.loads(mark.read_text())["size_bytes"], mark)
                )
            except (OSError, ValueError):  # another evicts it
                continue
        total = sum(size for _, size, _ in found)
        for _, size, mark in sorted(found):
            if total <= self._bytes_max:
                return
            if mark.parent.name == keep:
                continue
            with _lock_of_unused(self._root, mark.parent.name) as unused:
                if not unused:
                    continue
                mark.unlink(missing_ok=True)
                shutil.rmtree(mark.parent, ignore_errors=True)
            total -= size
            log.info("removed the Python environment %s, long not used", mark.parent.name[:12])


@contextmanager
def _lock_file(root: Path, digest: str) -> Iterator[int]:
    # Not inherited by what is started meanwhile: a lock lives as long as its last descriptor.
    descriptor = os.open(root / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _lock_of_unused(root: Path, digest: str) -> Iterator[bool]:
    """Whether nobody uses or builds it, nor can until the end of the block."""
    with _lock_file(root, digest) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _show_base(folder: Path) -> None:
    """Puts the packages of this interpreter after the environment's own."""
    lines = [f"import site; site.addsitedir({path!r})" for path in _base_packages()]
    (_packages(folder) / "lepton_base.pth").write_text("\n".join(lines) + "\n")


def _packages(folder: Path) -> Path:
    (packages,) = folder.glob("lib/python*/site-packages")
    return packages


def _base_packages() -> list[str]:
    return [path for path in site.getsitepackages() if Path(path).is_dir()]


def _install(folder: Path, requirements: str, look: Callable[[], object]) -> None:
    """Installs and checks them; ``look`` is called now and then, and may raise."""
    install = [
        "install",
        "--no-deps",
        "--only-binary=:all:",
        *(["--require-hashes"] if is_hashed(requirements) else []),
        "--requirement",
        str(folder / "requirements.txt"),
    ]
    said, status = _pip(folder, install, look)
    if status != 0:
        raise PythonEnvironmentFailed(
            "pip could not install the code's requirements; it said last:\n" + _end(said)
        )
    missing = list(_missing(folder))
    if missing:
        raise PythonEnvironmentFailed(
            "the code's requirements do not hold all that their packages need; pin this too:\n"
            + _end("\n".join(missing))
        )


def _missing(folder: Path) -> Iterator[str]:
    """What the environment's own packages need and is not there, in the words of ``pip check``.

    Read by this interpreter: the environment's would run what its packages want run at its start.
    What does not go together among the service's own packages is not the user's concern.
    """
    packages = _packages(folder)
    own = list(distributions(path=[str(packages)]))
    there = {
        canonicalize_name(one.name): one.version
        for one in (*distributions(path=_base_packages()), *own)
    }
    for one in own:
        for text in one.requires or ():
            try:
                needed = Requirement(text)
            except InvalidRequirement:
                yield f"{one.name} {one.version} requires '{text}', which is no requirement."
                continue
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            version = there.get(canonicalize_name(needed.name))
            if version is None:
                yield f"{one.name} {one.version} requires {needed.name}, which is not installed."
            elif not needed.specifier.contains(version, prereleases=True):
                yield (
                    f"{one.name} {one.version} has requirement {needed}, but you have "
                    f"{needed.name} {version}."
                )


def _pip(folder: Path, arguments: list[str], look: Callable[[], object]) -> tuple[str, int]:
    """Runs the service's pip for the environment; what it said, and its status."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name in _PIP_VARIABLES or name.startswith("PIP_") or name.lower() in _PROXIES
    }
    command = [
        *(sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")),
        *("--no-input", "--disable-pip-version-check", "--no-color"),
        *arguments,
    ]
    temporary = folder / "pip"  # so that what it downloads counts, and goes if it is killed
    temporary.mkdir()
    said, status = _watched(command, settings | {"TMPDIR": str(temporary)}, look)
    shutil.rmtree(temporary, ignore_errors=True)
    for line in said.splitlines():
        log.info("pip: %s", line)
    return said, status


def _watched(
    command: Sequence[str], environment: Mapping[str, str], look: Callable[[], object]
) -> tuple[str, int]:
    """Runs pip until its end, or until ``look`` raises; what it said, and its status."""
    deadline = time.monotonic() + _BUILD_SECONDS
    with subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,  # it starts another, which must end with it
    ) as process:
        try:
            while True:
                try:
                    content, _ = process.communicate(timeout=_LOOK_SECONDS)
                    return content.decode(errors="replace"), process.returncode
                except subprocess.TimeoutExpired as error:
                    look()
                    if time.monotonic() > deadline:
                        said = (error.stdout or b"").decode(errors="replace")
                        raise PythonEnvironmentFailed(
                            f"pip was not done after {_BUILD_SECONDS:.0f} s; it said last:\n"
                            + _end(said)
                        ) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _end(said: str) -> str:
    return "\n".join(line.strip() for line in said.strip().splitlines()[-_TOLD_LINES:])


def _bytes_of(folder: Path) -> int:
    size = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # pip moves files meanwhile
                size += (Path(where) / name).lstat().st_size
    return size
