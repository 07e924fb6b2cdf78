"""What the figures are to reach, and whether they do.

Ratios are medians over the rounds' ratios, since both sides of a round met the same machine. A
target is told of whether or not there are figures for it: what failed, or was not run, is no
success.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.load import Load
from bench.ours import BARE, GATEWAY, GRPC, IN_PROCESS, REST_BINARY, SERVER, TLS
from bench.peers import PEERS
from bench.rounds import Row
from bench.stack import MODELS
from bench.target import IN_FLIGHT

RESNET = "resnet50"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target."""

    what: str
    target: str
    figure: float | None
    """None where it, or what it is compared with, was not measured."""
    met: bool


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Every target there is, also those for which there are no figures."""
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
    return "\n".join(f"{each.what:<{width}}  {each.target:>12}  {_said(each)}" for each in found)


def _said(verdict: Verdict) -> str:
    if verdict.figure is None:
        return f"{'-':>8}  no figure"
    return f"{verdict.figure:>8.2f}  {'reached' if verdict.met else 'missed'}"


def _bare(rows: Sequence[Row]) -> Iterator[Verdict]:
    for in_flight, least in ((1, 1.4), (32, 4.0), (256, 6.0)):
        ours = _find(rows, SERVER, "mlp", GRPC, in_flight)
        bare = _find(rows, BARE, "mlp", GRPC, in_flight)
        yield _ratio(f"mlp over bare grpc.aio at {in_flight}", ours, bare, least)


def _in_process(rows: Sequence[Row]) -> Iterator[Verdict]:
    for in_flight in IN_FLIGHT:
        ours = _find(rows, SERVER, RESNET, GRPC, in_flight)
        limit = _find(rows, IN_PROCESS, RESNET, "none", in_flight)
        yield _ratio(f"{RESNET} over in-process at {in_flight}", ours, limit, 0.85)


def _peers(rows: Sequence[Row]) -> Iterator[Verdict]:
    for peer in PEERS:
        protocol = GRPC if peer.protocol == GRPC else REST_BINARY
        for model in (*MODELS, RESNET):
            for in_flight in IN_FLIGHT:
                ours = _find(rows, SERVER, model, protocol, in_flight, beside=peer.name)
                theirs = _find(rows, peer.name, model, peer.protocol, in_flight, beside=peer.name)
                yield _ratio(f"{model} over {peer.name} at {in_flight}", ours, theirs, 1.0)
                if in_flight == 32:
                    share = _by_rounds(ours, theirs, lambda mine, other: mine.p99_ms / other.p99_ms)
                    yield _at_most(f"{model} p99 of {peer.name}'s at 32", share, 1.0, "x")


def _rest(rows: Sequence[Row]) -> Iterator[Verdict]:
    for model in MODELS:
        for in_flight in IN_FLIGHT:
            rest = _find(rows, SERVER, model, REST_BINARY, in_flight)
            ours = _find(rows, SERVER, model, GRPC, in_flight)
            yield _ratio(f"{model} REST binary over gRPC at {in_flight}", rest, ours, 0.5)


def _gateway(rows: Sequence[Row]) -> Iterator[Verdict]:
    for model in MODELS:
        gateway = _find(rows, SERVER, model, GATEWAY, 32)
        direct = _find(rows, SERVER, model, TLS, 32)
        yield _ratio(f"{model} gateway over direct TLS at 32", gateway, direct, 0.6)
        # With more in flight a request waits for others, and p50 follows from the rate.
        gateway = _find(rows, SERVER, model, GATEWAY, 1)
        direct = _find(rows, SERVER, model, TLS, 1)
        more = None
        if gateway is not None and direct is not None:
            more = gateway.median("p50_ms") - direct.median("p50_ms")
        yield _at_most(f"{model} gateway's part of p50 at 1", more, 0.6, "ms")


def _ratio(what: str, ours: Row | None, other: Row | None, least: float) -> Verdict:
    """Requests a second, as so many times another's."""
    ratio = _by_rounds(
        ours, other, lambda mine, theirs: mine.requests_per_second / theirs.requests_per_second
    )
    return Verdict(what, f">= {least:g} x", ratio, ratio is not None and ratio >= least)


def _at_most(what: str, figure: float | None, most: float, unit: str) -> Verdict:
    return Verdict(what, f"<= {most:g} {unit}", figure, figure is not None and figure <= most)


def _by_rounds(
    ours: Row | None, other: Row | None, compared: Callable[[Load, Load], float]
) -> float | None:
    """The median over the rounds that both have; None where one has none."""
    if ours is None or other is None:
        return None
    return statistics.median(map(compared, ours.loads, other.loads))


def _find(  # noqa: PLR0917  a row's key
    rows: Sequence[Row], server: str, model: str, protocol: str, in_flight: int, beside: str = ""
) -> Row | None:
    """The row of that key; None where there is none, or it has no figures."""
    wanted = (server, model, protocol, in_flight, beside)
    for row in rows:
        if (row.server, row.model, row.protocol, row.in_flight, row.beside) == wanted:
            return row if row.loads else None
    return None
