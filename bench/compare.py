"""CPU time a request of the data plane, for one or more source trees side by side.

On a busy machine requests a second say what the neighbours did; processor time says more, and
the ratio of runs that followed each other says most. Rounds alternate in order.

    git worktree add /tmp/before HEAD~1
    python -m bench.compare before=/tmp/before after=. --model build/bench-models/mlp.onnx
    python -m bench.compare bare after=. --model build/bench-models/mlp.onnx
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import program
from bench.ours import BARE, GRPC, REST_BINARY, REST_JSON, plain_target
from bench.target import Model

_DATA_PLANE = """
import asyncio, sys
from pathlib import Path
from bench.data_plane import data_plane

async def main(model):
    async with data_plane({"model": Path(model)}) as (address, pid):
        print(address, pid, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""


def main() -> None:
    """Prints a line for each tree; the first is what the others are compared with."""
    parser = argparse.ArgumentParser(prog="bench.compare")
    parser.add_argument("trees", nargs="+", help="'bare', or name=folder of a source tree")
    parser.add_argument("--model", type=Path, required=True, help="an ONNX file")
    parser.add_argument(
        "--protocol", default=GRPC, choices=(GRPC, REST_BINARY, REST_JSON), help="'bare' has gRPC"
    )
    parser.add_argument("--in-flight", type=int, default=32, choices=(1, 32, 256))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    model = Model("model", options.model)
    measured: dict[str, list[tuple[float, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for tree in options.trees:
            name = tree.partition("=")[0]
            address, pid = stack.enter_context(_server(tree, options.model))
            server = BARE if name == "bare" else name
            servers[name] = plain_target(model, address, options.protocol, server), pid
        for number in range(options.rounds):
            for name in list(servers)[:: -1 if number % 2 else 1]:
                target, pid = servers[name]
                before = _cpu_microseconds(pid)
                load = target.load(options.in_flight, options.seconds)
                spent = _cpu_microseconds(pid) - before
                requests = load.requests_per_second * options.seconds
                measured.setdefault(name, []).append((load.requests_per_second, spent / requests))
    first = next(iter(measured.values()))
    for name, rounds in measured.items():
        rate, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        pairs = zip(rounds, first, strict=True)
        ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
        print(f"{name:<12}{rate:>9,.0f} req/s {ratio:>6.2f} x {cpu:>7.1f} us of CPU a request")


@contextlib.contextmanager
def _server(tree: str, model: Path) -> Iterator[tuple[str, int]]:
    """Starts it; gives its ``host:port`` and the process to look at."""
    name, _, folder = tree.partition("=")
    command, root = [sys.executable, "-m", "bench.bare_grpc_aio_server"], Path.cwd()
    if name != "bare":
        command, root = [sys.executable, "-c", _DATA_PLANE, str(model.absolute())], Path(folder)
    packages = [root, *(root / part for part in ("sdk", "services/mesh", "services/inference"))]
    path = os.pathsep.join(str(package.absolute()) for package in packages)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # a terminal's Ctrl-C is for the program that ends this one
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        address, *pid = process.stdout.readline().split()
        yield address, int(pid[0]) if pid else process.pid
    finally:
        process.stdin.close()
        if name == "bare":
            process.terminate()
        process.wait(20)


def _cpu_microseconds(pid: int) -> float:
    """What all threads of a process have run, from Linux's scheduler."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1000


if __name__ == "__main__":
    program.run(main)
