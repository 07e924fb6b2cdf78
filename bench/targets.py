"""What the figures are to reach, and whether they do.

Ratios are medians over the rounds' ratios, since both sides of a round met the same machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.ours import BARE, GATEWAY, GRPC, IN_PROCESS, REST_BINARY, SERVER, TLS
from bench.rounds import Row

RESNET = "resnet50"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target."""

    what: str
    target: str
    figure: float
    met: bool

    def plain(self) -> dict[str, object]:
        return {
            "what": self.what,
            "target": self.target,
            "figure": round(self.figure, 2),
            "met": self.met,
        }


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every target for which there are figures."""
    return [
        *_bare(rows),
        *_in_process(rows),
        *_peers(rows),
        *_rest(rows),
        *_gateway(rows),
    ]


def table(found: Sequence[Verdict]) -> str:
    """The verdicts for people."""
    width = max((len(each.what) for each in found), default=0)
    return "\n".join(
        f"{each.what:<{width}}  {each.target:>12}  {each.figure:>8.2f}  "
        f"{'reached' if each.met else 'missed'}"
        for each in found
    )


def _bare(rows: Sequence[Row]) -> Iterator[Verdict]:
    for in_flight, least in ((1, 1.4), (32, 4.0), (256, 6.0)):
        ours = _find(rows, SERVER, "mlp", GRPC, in_flight)
        bare = _find(rows, BARE, "mlp", GRPC, in_flight)
        yield from _ratio(f"mlp over bare grpc.aio at {in_flight}", ours, bare, least)


def _in_process(rows: Sequence[Row]) -> Iterator[Verdict]:
    for in_flight in (1, 32, 256):
        ours = _find(rows, SERVER, RESNET, GRPC, in_flight)
        limit = _find(rows, IN_PROCESS, RESNET, "none", in_flight)
        yield from _ratio(f"{RESNET} over in-process at {in_flight}", ours, limit, 0.85)


def _peers(rows: Sequence[Row]) -> Iterator[Verdict]:
    for peer in rows:
        if not peer.beside or peer.server != peer.beside or not peer.loads:
            continue
        protocol = GRPC if peer.protocol == GRPC else REST_BINARY
        ours = _find(rows, SERVER, peer.model, protocol, peer.in_flight, beside=peer.beside)
        name = f"{peer.model} over {peer.server} at {peer.in_flight}"
        yield from _ratio(name, ours, peer, 1.0)
        if peer.in_flight == 32 and ours is not None and ours.loads:
            share = statistics.median(
                mine.p99_ms / theirs.p99_ms
                for mine, theirs in zip(ours.loads, peer.loads, strict=False)
            )
            what = f"{peer.model} p99 of {peer.server}'s at 32"
            yield Verdict(what, "<= 1 x", share, share <= 1)


def _rest(rows: Sequence[Row]) -> Iterator[Verdict]:
    for model in ("mlp", "cnn"):
        for in_flight in (1, 32, 256):
            rest = _find(rows, SERVER, model, REST_BINARY, in_flight)
            ours = _find(rows, SERVER, model, GRPC, in_flight)
            yield from _ratio(f"{model} REST binary over gRPC at {in_flight}", rest, ours, 0.5)


def _gateway(rows: Sequence[Row]) -> Iterator[Verdict]:
    for model in ("mlp", "cnn"):
        gateway = _find(rows, SERVER, model, GATEWAY, 32)
        direct = _find(rows, SERVER, model, TLS, 32)
        yield from _ratio(f"{model} gateway over direct TLS at 32", gateway, direct, 0.6)
        # With more in flight a request waits for others, and p50 follows from the rate.
        gateway = _find(rows, SERVER, model, GATEWAY, 1)
        direct = _find(rows, SERVER, model, TLS, 1)
        if gateway is not None and direct is not None and gateway.loads and direct.loads:
            more = gateway.median("p50_ms") - direct.median("p50_ms")
            yield Verdict(f"{model} gateway's part of p50 at 1", "<= 0.6 ms", more, more <= 0.6)


def _ratio(what: str, ours: Row | None, other: Row | None, least: float) -> Iterator[Verdict]:
    if ours is None or other is None or not ours.loads or not other.loads:
        return
    pairs = zip(ours.loads, other.loads, strict=False)
    ratio = statistics.median(
        mine.requests_per_second / theirs.requests_per_second for mine, theirs in pairs
    )
    yield Verdict(what, f">= {least:g} x", ratio, ratio >= least)


def _find(  # noqa: PLR0917  a row's key
    rows: Sequence[Row], server: str, model: str, protocol: str, in_flight: int, beside: str = ""
) -> Row | None:
    wanted = (server, model, protocol, in_flight, beside)
    for row in rows:
        if (row.server, row.model, row.protocol, row.in_flight, row.beside) == wanted:
            return row
    return None
