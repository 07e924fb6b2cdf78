"""Other servers from PyPI, each in an environment of its own, served as its documentation says.

A peer's script runs in that environment and must not import anything of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import onnxruntime

from bench.target import Array, Model, Target, grpc_target, rest_target

_HERE = Path(__file__).parent
_INSTALL_SECONDS = 900
_START_SECONDS = 90


class PeerFailed(Exception):
    """A peer could not be installed or started; says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One of the other servers."""

    name: str
    requirements: tuple[str, ...]
    script: str
    """A file beside this one: ``script GRPC_PORT HTTP_PORT NAME=FILE...``."""
    protocol: str = "grpc"


_ONNX_RUNTIME = f"onnxruntime=={onnxruntime.__version__}"
"""Ours: servers are compared, not what they run."""
PEERS = (
    Peer("nvidia-pytriton", ("nvidia-pytriton==0.7.0", _ONNX_RUNTIME), "pytriton_server.py"),
    Peer("mlserver", ("mlserver==1.7.1", _ONNX_RUNTIME), "mlserver_server.py"),
    Peer("kserve", ("kserve==0.21.0", _ONNX_RUNTIME), "kserve_server.py"),
    Peer("litserve", ("litserve==0.2.19", _ONNX_RUNTIME), "litserve_server.py", "rest base64"),
)


def install(peer: Peer, folder: Path) -> Path:
    """The Python of the peer's environment below ``folder``, made if it is not there."""
    home = folder / peer.name
    python, done = home / "bin" / "python", home / ".installed"
    if done.exists():
        return python
    commands = [
        [str(_python()), "-m", "venv", "--clear", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", *peer.requirements],
    ]
    for command in commands:
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS
            )
        except (subprocess.SubprocessError, OSError) as error:
            output = getattr(error, "stderr", "") or str(error)
            raise PeerFailed(f"install: {_last_line(str(output))}") from None
    done.touch()
    return python


def _python() -> Path:
    """The system's CPython 3.11, which pytriton's extension is for; else the one that runs."""
    system = Path("/usr/bin/python3.11")
    return system if system.exists() else Path(sys.executable)


@contextlib.contextmanager
def serving(
    peer: Peer, python: Path, models: Sequence[Model], logs: Path
) -> Iterator[list[Target]]:
    """Starts the peer with the models; gives a target for each that it answers right.

    Raises:
        PeerFailed: It ended or did not answer; the log is in ``logs``.
    """
    ports = _free_ports(2)
    log = logs / f"{peer.name}.log"
    arguments = [str(port) for port in ports]
    arguments += [f"{model.name}={model.path.absolute()}" for model in models]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # Beside the environment's Python, so that commands it starts are its own.
    environment["PATH"] = f"{python.parent.absolute()}:{environment['PATH']}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python.absolute()), str(_HERE / peer.script), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=logs,
            env=environment,
            start_new_session=True,
        )
        try:
            yield [_target(peer, model, ports, process, log) for model in models]
        finally:
            _stop(process)


def _target(
    peer: Peer, model: Model, ports: list[int], process: subprocess.Popen[bytes], log: Path
) -> Target:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            return _ask(peer, model, ports)
        except (grpc.RpcError, httpx.HTTPError) as error:
            if process.poll() is not None or time.monotonic() > end:
                said = _last_line(log.read_text(errors="replace"))
                raise PeerFailed(f"start: {said or error!r}; see {log}") from None
            time.sleep(0.2)


def _ask(peer: Peer, model: Model, ports: list[int]) -> Target:
    if peer.protocol == "grpc":
        address = f"127.0.0.1:{ports[0]}"
        with grpc.insecure_channel(address) as channel:
            return grpc_target(peer.name, model, address, channel)
    return rest_target(
        peer.name,
        model,
        f"http://127.0.0.1:{ports[1]}/{model.name}",
        model.base64_json(),
        protocol=peer.protocol,
        numbers=_logits,
    )


def _logits(response: httpx.Response) -> Array:
    return np.array(response.json()["logits"], np.float32)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started, which all are of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
