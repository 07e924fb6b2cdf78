"""A real PostgreSQL for tests where one is installed: its own files, a Unix socket, no port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

# PostgreSQL will not run as root; Debian's package brings this user.
_USER = "postgres" if os.geteuid() == 0 else None


def why_not() -> str:
    """Why no server can be had here, and what to do about it; "" if one can."""
    if missing := [name for name in ("initdb", "postgres") if not _binary(name)]:
        return (
            f"PostgreSQL's {' and '.join(missing)} are neither on PATH nor in /usr/lib/postgresql; "
            "on Debian: apt-get install postgresql"
        )
    if _USER and _USER not in Path("/etc/passwd").read_text():
        return (
            f"PostgreSQL does not run as root, and there is no user '{_USER}'; "
            f"`useradd --system {_USER}` makes one"
        )
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
        """Makes its files, starts it, and returns when it answers."""
        data = self._directory / "data"
        initdb = [_binary("initdb"), "-D", data, "-A", "trust", "-U", "lepton", "--no-sync"]
        subprocess.run(initdb, check=True, **self._as_user())
        options = ["-k", self._directory, "-c", "listen_addresses=", "-c", "fsync=off"]
        self._process = subprocess.Popen(
            [_binary("postgres"), "-D", data, *options],
            stderr=subprocess.DEVNULL,
            **self._as_user(),
        )
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError("PostgreSQL ended before it was ready")
            time.sleep(0.02)

    def new_database(self) -> str:
        """The URL of a new empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://lepton@/{name}?host={self._directory}"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
        shutil.rmtree(self._directory)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=str(self._directory), user="lepton", dbname="postgres", autocommit=True
        )

    def _as_user(self) -> dict[str, Any]:
        return {"user": _USER, "cwd": self._directory, "stdout": subprocess.DEVNULL}


def _binary(name: str) -> str:
    if on_path := shutil.which(name):
        return on_path
    # Where Debian keeps them, newest first.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(found[0]) if found else ""
