"""``make bench-inference``: our inference service beside its limits and its peers, in one run.

    python -m bench.inference --servers lepton,mlserver --models mlp --seconds 1 --rounds 1

Requests are of one row, 1, 32 and 256 in flight, from h2load on the same cores. Servers that can
idle beside each other have their turn in every round; a peer is started alone, with our server
beside it once more, since a ratio says more than figures that lie minutes apart. It writes
``bench/results/inference.json`` and a picture beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import ours, peers, program, resnet
from bench.load import find_h2load
from bench.plot import plot
from bench.rounds import Loadable, Row, measure
from bench.stack import MODELS, fresh_home, machine, random_images, train
from bench.target import IN_FLIGHT, Model
from bench.targets import RESNET, table, verdicts
from lepton.client import Client, connect
from lepton_local.stack import bring_down, bring_up

RESULTS = Path("bench/results/inference.json")
_OURS = ("lepton", "gateway", "bare", "onnxruntime")
_PEERS = {peer.name: peer for peer in peers.PEERS}
_RESNET_SECONDS = {1: 3, 32: 6, 256: 20}
"""A request takes tens of milliseconds, and the last of 256 waits for more than ten seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is run."""

    servers: tuple[str, ...]
    models: tuple[str, ...]
    seconds: int
    rounds: int
    build: Path

    def duration(self, model: str, in_flight: int) -> float:
        """Seconds of load for one figure."""
        return _RESNET_SECONDS[in_flight] if model == RESNET else self.seconds

    def turns(self, model: str) -> int:
        """Rounds in our own block."""
        return min(self.rounds, 2) if model == RESNET else self.rounds

    def turns_beside(self, model: str) -> int:
        """Rounds beside a peer."""
        return 1 if model == RESNET else min(self.rounds, 2)


def main() -> None:
    """Runs all of it, or the part that is asked for."""
    parser = argparse.ArgumentParser(prog="bench.inference")
    parser.add_argument("--servers", type=_names, default=(*_OURS, *_PEERS))
    parser.add_argument("--models", type=_names, default=(*MODELS, RESNET))
    parser.add_argument("--seconds", type=int, default=2, help="of load for each figure")
    parser.add_argument("--rounds", type=int, default=3, help="the median is kept")
    parser.add_argument("--build", type=Path, default=Path("build"), help="models, peers, stack")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    options = Options(
        given.servers, given.models, given.seconds, given.rounds, given.build.absolute()
    )
    for name in options.servers:
        if name not in (*_OURS, *_PEERS):
            parser.error(f"there is no server '{name}'; use {', '.join((*_OURS, *_PEERS))}")
    for name in options.models:
        if name not in (*MODELS, RESNET):
            parser.error(f"there is no model '{name}'; use {', '.join((*MODELS, RESNET))}")
    find_h2load()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for more in run(options):
        # After each part: whatever becomes of the next, a quarter of an hour is not lost.
        rows += more
        given.output.write_text(json.dumps([row.plain() for row in rows], indent=1) + "\n")
        plot(rows, given.output.with_suffix(".png"))
    for row in rows:
        if row.error:
            print(f"failed: {row.server} {row.model} {row.protocol} {row.in_flight}: {row.error}")
    print(f"\n{datetime.now(UTC).isoformat(timespec='seconds')} {json.dumps(machine())}\n")
    print(table(verdicts(rows)))
    print(f"\nwritten to {given.output}")


def run(options: Options) -> Iterator[list[Row]]:
    """Everything that was measured: our own servers, then peer by peer."""
    with contextlib.ExitStack() as stack:
        lepton: Client | None = None
        files: dict[str, Path] = {}
        trained = {name: options.build / "bench-models" / f"{name}.onnx" for name in MODELS}
        if "gateway" in options.servers or not all(path.exists() for path in trained.values()):
            lepton, trained = stack.enter_context(_stack(options.build))
        files |= {name: path for name, path in trained.items() if name in options.models}
        if RESNET in options.models:
            files[RESNET] = resnet.build(options.build / "bench-models" / f"{RESNET}.onnx")
        models = [Model(name, path) for name, path in files.items()]
        yield asyncio.run(_own(options, models, lepton))
    for name in options.servers:
        if name in _PEERS:
            yield asyncio.run(_beside(options, models, _PEERS[name]))


async def _own(options: Options, models: Sequence[Model], lepton: Client | None) -> list[Row]:
    """Our own servers and their limits."""
    async with contextlib.AsyncExitStack() as stack:
        targets: list[Loadable] = []
        if "lepton" in options.servers:
            protocols = (ours.GRPC, ours.REST_BINARY, ours.REST_JSON)
            targets += await stack.enter_async_context(ours.direct(models, protocols))
            targets += await stack.enter_async_context(ours.direct_tls(models))
        if "gateway" in options.servers and lepton is not None:
            served = [model for model in models if model.name in MODELS]
            targets += ours.gateway(lepton, served)
        if "bare" in options.servers:
            targets += [
                stack.enter_context(ours.bare(model)) for model in models if model.name == "mlp"
            ]
        if "onnxruntime" in options.servers:
            targets += [ours.InProcess(model) for model in models]
        return measure(targets, IN_FLIGHT, options.duration, options.turns)


async def _beside(options: Options, models: Sequence[Model], peer: peers.Peer) -> list[Row]:
    """A peer and our server in turn."""
    folder = options.build / "peers"
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    print(f"{peer.name}", file=sys.stderr)
    try:
        python = peers.install(peer, folder)
        with peers.serving(peer, python, models, logs) as targets:
            protocol = ours.GRPC if peer.protocol == ours.GRPC else ours.REST_BINARY
            async with ours.direct(models, (protocol,)) as own:
                return measure(
                    [*targets, *own], IN_FLIGHT, options.duration, options.turns_beside, peer.name
                )
    except peers.PeerFailed as error:
        print(f"  {peer.name} failed: {error}", file=sys.stderr)
        return [
            Row(peer.name, model.name, peer.protocol, in_flight, peer.name, error=str(error))
            for model in models
            for in_flight in IN_FLIGHT
        ]


@contextlib.contextmanager
def _stack(build: Path) -> Iterator[tuple[Client, dict[str, Path]]]:
    """A stack that serves the seed models, trained on noise."""
    home = fresh_home(build)
    images = random_images(build / "bench-images")
    try:
        bring_up(home, "127.0.0.1", 0, "bench")
        with connect("bench") as lepton:
            yield lepton, train(lepton, images, build / "bench-models")
    finally:
        bring_down(home)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    program.run(main)
