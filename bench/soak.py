"""Ten minutes at four fifths of what the data plane can do: does its memory stay where it is?

    python -m bench.soak --model build/bench-models/mlp.onnx

It writes ``bench/results/soak.json``: the load, and the resident memory of the process every
half minute. Flat means that the last third's median is within five percent of the first's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path

from bench import program
from bench.data_plane import data_plane
from bench.load import Load
from bench.ours import GRPC, plain_target
from bench.target import Model

RESULTS = Path("bench/results/soak.json")
_PIECE_SECONDS = 30
_IN_FLIGHT = 32
_MOST_GROWTH = 0.05


def main() -> None:
    """Runs it, and says whether memory was flat."""
    parser = argparse.ArgumentParser(prog="bench.soak")
    parser.add_argument("--model", type=Path, default=Path("build/bench-models/mlp.onnx"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--share", type=float, default=0.8, help="of the highest rate")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = asyncio.run(_soak(options.model, options.minutes, options.share))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "pieces"}, indent=1))
    print(f"written to {options.output}")


async def _soak(path: Path, minutes: float, share: float) -> dict[str, object]:
    model = Model("model", path)
    async with data_plane({"model": path}) as (address, pid):
        target = plain_target(model, address, GRPC)
        start = _resident_mib(pid)
        most = target.load(_IN_FLIGHT, 5).requests_per_second
        pieces: list[tuple[Load, float]] = []
        for _ in range(max(3, round(60 * minutes / _PIECE_SECONDS))):
            load = target.load(_IN_FLIGHT, _PIECE_SECONDS, rate=share * most)
            pieces.append((load, _resident_mib(pid)))
            print(f"  {load.requests_per_second:,.0f} req/s, {pieces[-1][1]:.1f} MiB", flush=True)
    resident = [mib for _, mib in pieces]
    third = max(1, len(pieces) // 3)
    growth = statistics.median(resident[-third:]) / statistics.median(resident[:third]) - 1
    return {
        "model": path.stem,
        "in_flight": _IN_FLIGHT,
        "most_requests_per_second": round(most, 1),
        "minutes": round(len(pieces) * _PIECE_SECONDS / 60, 1),
        "requests": round(sum(load.requests_per_second for load, _ in pieces) * _PIECE_SECONDS),
        "resident_mib_at_start": round(start, 1),
        "resident_mib_at_end": round(resident[-1], 1),
        "growth_first_to_last_third": round(growth, 4),
        "flat": abs(growth) <= _MOST_GROWTH,
        "pieces": [load.plain() | {"resident_mib": round(mib, 1)} for load, mib in pieces],
    }


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


if __name__ == "__main__":
    program.run(main)
