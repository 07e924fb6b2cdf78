"""The verdicts of ``make bench-inference``: each target has one, whatever was measured."""

from __future__ import annotations

from bench.load import Load
from bench.ours import GATEWAY, GRPC, REST_BINARY, SERVER, TLS
from bench.peers import PEERS
from bench.rounds import Row
from bench.targets import RESNET, Verdict, table, verdicts


def row(
    server: str,
    protocol: str,
    in_flight: int,
    *rates: float,
    model: str = "mlp",
    beside: str = "",
    latency: float = 1.0,
) -> Row:
    """A row of one round for each rate, with ``latency`` ms as p50 and as p99."""
    loads = [Load(rate, latency, latency) for rate in rates]
    return Row(server, model, protocol, in_flight, beside, loads)


def found(*rows: Row) -> dict[str, Verdict]:
    return {verdict.what: verdict for verdict in verdicts(rows)}


def test_without_any_figure_every_target_is_told_of() -> None:
    """Each peer with each model and number in flight among them; nothing counts as reached."""
    every = found()
    for peer in (each.name for each in PEERS):
        for model in ("mlp", "cnn", RESNET):
            assert f"{model} p99 of {peer}'s at 32" in every
            for in_flight in (1, 32, 256):
                assert f"{model} over {peer} at {in_flight}" in every
    for what in (
        "mlp over bare grpc.aio at 32",
        f"{RESNET} over in-process at 1",
        "cnn REST binary over gRPC at 256",
        "mlp gateway over direct TLS at 32",
        "cnn gateway's part of p50 at 1",
    ):
        assert what in every
    assert {(verdict.figure, verdict.met) for verdict in every.values()} == {(None, False)}


def test_what_is_measured_changes_no_other_verdict() -> None:
    """The list of targets is the same with figures and without."""
    measured = found(
        row(SERVER, GRPC, 32, 100.0, beside="mlserver"),
        row("mlserver", GRPC, 32, 50.0, beside="mlserver"),
    )
    assert list(measured) == list(found())


def test_a_side_without_figures_is_no_figure() -> None:
    """Also where the row is there and says why there are none."""
    failed = Row("mlserver", "mlp", GRPC, 32, "mlserver", error="start: no such module")
    one_side = found(failed, row(SERVER, GRPC, 32, 100.0, beside="mlserver"))
    assert one_side["mlp over mlserver at 32"] == Verdict(
        "mlp over mlserver at 32", ">= 1 x", None, met=False
    )
    assert one_side["mlp p99 of mlserver's at 32"].figure is None
    gateway = found(row(SERVER, GATEWAY, 1, 100.0))
    assert gateway["mlp gateway's part of p50 at 1"].figure is None


def test_figures_are_medians_over_rounds() -> None:
    """Of the rounds that both sides have; each target with its own bound."""
    compared = found(
        row(SERVER, GRPC, 32, 100.0, 300.0, 100.0, beside="mlserver", latency=3.0),
        row("mlserver", GRPC, 32, 50.0, 100.0, 100.0, beside="mlserver", latency=2.0),
        row(SERVER, REST_BINARY, 32, 40.0),
        row(SERVER, GRPC, 32, 100.0),
        row(SERVER, GATEWAY, 1, 100.0, latency=1.5),
        row(SERVER, TLS, 1, 100.0, latency=1.0),
    )
    for what, figure, met in (
        ("mlp over mlserver at 32", 2.0, True),
        ("mlp p99 of mlserver's at 32", 1.5, False),
        ("mlp REST binary over gRPC at 32", 0.4, False),
        ("mlp gateway's part of p50 at 1", 0.5, True),
    ):
        assert (compared[what].figure, compared[what].met) == (figure, met), what


def test_the_table_says_what_has_no_figure() -> None:
    """In the place of a verdict, so that it is neither reached nor missed."""
    lines = table(
        [
            Verdict("one", ">= 1 x", 2.0, met=True),
            Verdict("other", ">= 1 x", 0.5, met=False),
            Verdict("third", ">= 1 x", None, met=False),
        ]
    ).splitlines()
    assert [line.split()[-1] for line in lines] == ["reached", "missed", "figure"]
    assert lines[2].endswith("-  no figure")
    assert len({line.index(">=") for line in lines}) == 1
