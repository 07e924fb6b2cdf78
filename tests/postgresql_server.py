"""A real PostgreSQL for tests where one is installed: its own files, a Unix socket, no port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

# PostgreSQL will not run as root; Debian's package brings this user.
_USER = "postgres" if os.geteuid() == 0 else None


def why_not() -> str:
    """Why no server can be had here; "" if one can."""
    if not _binary("initdb") or not _binary("postgres"):
        return "no PostgreSQL server is installed"
    if _USER and _USER not in Path("/etc/passwd").read_text():
        return f"PostgreSQL does not run as root, and there is no user '{_USER}'"
    return ""


class PostgresqlServer:
    """One server with an empty database per :meth:`new_database`."""

    def __init__(self) -> None:
        # A socket's path has at most 107 bytes, so pytest's own directories are too deep.
        self._directory = Path(tempfile.mkdtemp(prefix="lepton-pg-"))
        if _USER:
            shutil.chown(self._directory, _USER)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def start(self) -> None:
        data = self._directory / "data"
        self._run(_binary("initdb"), "-D", data, "-A", "trust", "-U", "lepton", "--no-sync")
        options = ["-k", self._directory, "-c", "listen_addresses=", "-c", "fsync=off"]
        self._process = subprocess.Popen(
            [_binary("postgres"), "-D", data, *options],
            user=_USER,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = [_binary("pg_isready"), "-h", str(self._directory), "-U", "lepton", "-q"]
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None:
                raise RuntimeError("PostgreSQL ended before it was ready")

    def new_database(self) -> str:
        """The URL of a new empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._run(_binary("createdb"), "-h", self._directory, "-U", "lepton", name)
        return f"postgresql://lepton@/{name}?host={self._directory}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
        shutil.rmtree(self._directory)

    def _run(self, *command: str | Path, check: bool = True) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=check,
            user=_USER,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )


def _binary(name: str) -> str:
    if on_path := shutil.which(name):
        return on_path
    # Where Debian keeps them, newest first.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(found[0]) if found else ""
