"""Load from h2load, which is written in C: a Python loop would measure itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CONNECTIONS = {1: 1, 32: 4, 256: 8}


class LoadError(Exception):
    """h2load is missing, or requests failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float

    def plain(self) -> dict[str, float]:
        return {
            "requests_per_second": round(self.requests_per_second, 1),
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
        }


def find_h2load() -> str:
    """Where h2load is.

    Raises:
        LoadError: It is not installed.
    """
    found = shutil.which("h2load")
    if found is None:
        raise LoadError("h2load is not installed; on Debian: apt-get install nghttp2-client")
    return found


def drive(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    in_flight: int,
    seconds: float,
    answer_bytes: int,
    warm_up: int = 1,
    http1: bool = False,
    rate: float = 0.0,
) -> Load:
    """Sends the same request for ``seconds``, ``in_flight`` at a time, after a warm-up.

    Args:
        url: Where to; ``http://`` is HTTP/2 with prior knowledge.
        body: What to send; for gRPC with its five-byte prefix.
        headers: Sent with each request.
        in_flight: 1, 32 or 256.
        seconds: How long.
        answer_bytes: Size of the body of a right answer. gRPC says what failed in trailers,
            which h2load does not read: a failure shows in a body that is missing.
        warm_up: Seconds of load before those that count.
        http1: Speak HTTP/1.1, which takes a connection for each request in flight.
        rate: Requests a second that are sent at most; 0 for as many as are answered.

    Raises:
        LoadError: A request failed.
    """
    connections = in_flight if http1 else _CONNECTIONS[in_flight]
    with tempfile.TemporaryDirectory() as folder:
        payload, log = Path(folder) / "body", Path(folder) / "log"
        payload.write_bytes(body)
        command = [
            find_h2load(),
            f"--clients={connections}",
            f"--max-concurrent-streams={in_flight // connections}",
            f"--duration={seconds:.0f}",
            f"--warm-up-time={warm_up}",
            "--threads=1",
            *(["--h1"] if http1 else []),
            *([f"--rps={max(1, round(rate / connections))}"] if rate else []),
            f"--data={payload}",
            f"--log-file={log}",
            *(f"--header={name}: {value}" for name, value in headers.items()),
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LoadError(f"h2load: {done.stderr.strip() or done.stdout.strip()}")
        if not log.stat().st_size:
            raise LoadError(f"none of {in_flight} requests was answered within {seconds:.0f} s")
        # Columns: start in microseconds, status, duration in microseconds.
        rows = np.loadtxt(log, dtype=np.int64, ndmin=2)
    _check(done.stdout, rows, answer_bytes, in_flight)
    durations = rows[:, 2] / 1000
    span = (rows[:, 0] + rows[:, 2]).max() - rows[:, 0].min()
    return Load(
        len(rows) / (span / 1e6),
        float(np.percentile(durations, 50)),
        float(np.percentile(durations, 99)),
    )


def answered(url: str, body: bytes, headers: Mapping[str, str], *, http1: bool = False) -> None:
    """Returns once one request was answered: whatever was queued before it is done.

    Raises:
        LoadError: It was not, within a minute.
    """
    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder) / "body"
        payload.write_bytes(body)
        command = [find_h2load(), "-n1", "-c1", "-m1", f"--data={payload}"]
        command += ["--h1"] if http1 else []
        command += [*(f"--header={name}: {value}" for name, value in headers.items()), url]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except subprocess.TimeoutExpired:
            raise LoadError(f"no answer from {url}") from None
    if "1 succeeded" not in done.stdout:
        raise LoadError(f"no answer from {url}:\n{done.stdout}")


def _check(output: str, rows: np.ndarray, answer_bytes: int, in_flight: int) -> None:
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", output)
    if failed is None or any(int(count) for count in failed.groups()):
        raise LoadError(f"requests failed:\n{output}")
    # h2load notes no status of an answer whose headers came before the warm-up's end and whose
    # body came after it: at most one a stream. Their bytes are counted below like all others.
    statuses, counts = np.unique(rows[:, 1], return_counts=True)
    seen = dict(zip(statuses.tolist(), counts.tolist(), strict=True))
    if seen.pop(0, 0) > in_flight or set(seen) != {200}:
        raise LoadError(f"statuses {dict(zip(statuses.tolist(), counts.tolist(), strict=True))}")
    data = re.search(r"headers \(space savings [^)]*\), \S+ \((\d+)\) data", output)
    finished = re.search(r"(\d+) succeeded", output)
    if data is None or finished is None:
        raise LoadError(f"cannot read what h2load says:\n{output}")
    if int(data.group(1)) < int(finished.group(1)) * answer_bytes:
        raise LoadError(
            f"{finished.group(1)} answers of {answer_bytes} bytes make more than the "
            f"{data.group(1)} bytes that came: some were errors"
        )
