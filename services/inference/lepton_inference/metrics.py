"""Prometheus metrics of the models that are served now, read from their statistics when scraped.

Labels are bounded by the endpoints there are. A model that is replaced begins anew, which
Prometheus takes for a counter's reset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lepton_inference.model import LoadedModel, Model
from lepton_inference.serving import Serving
from lepton_inference.shadow import Comparison
from lepton_inference.statistics import ROWS_BOUNDS, SECONDS_BOUNDS, Histogram

_LABELS = ("workspace", "endpoint", "version")
_PREFIX = "lepton_inference_"
_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


class ServingCollector(Collector):
    """Asks every served model at each scrape; costs requests nothing."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        # Scrapes come from a thread of their own, so what may change is copied first.
        models = [
            ((workspace, served.name, model.source.version), model)
            for workspace, served in list(self._serving.all())
            for model in served.loaded
        ]
        requests = CounterMetricFamily(
            _PREFIX + "requests",
            "Requests by how they ended: OK, or the reason of their error.",
            labels=(*_LABELS, "result"),
        )
        waiting = GaugeMetricFamily(_PREFIX + "waiting", "Requests that wait.", labels=_LABELS)
        seconds = HistogramMetricFamily(
            _PREFIX + "request_seconds",
            "Time of successful requests from the queue to the answer.",
            labels=_LABELS,
        )
        stages = HistogramMetricFamily(
            _PREFIX + "stage_seconds",
            "Time of successful requests, by stage.",
            labels=(*_LABELS, "stage"),
        )
        rows = HistogramMetricFamily(_PREFIX + "batch_rows", "Rows of batches.", labels=_LABELS)
        lookups = CounterMetricFamily(
            _PREFIX + "cache_lookups",
            "Requests by whether the response cache had their answer.",
            labels=(*_LABELS, "result"),
        )
        kept = GaugeMetricFamily(
            _PREFIX + "cache_bytes", "What the response cache holds.", labels=_LABELS
        )
        sequences = GaugeMetricFamily(
            _PREFIX + "sequences", "Sequences whose state is kept.", labels=_LABELS
        )
        shadowed = CounterMetricFamily(
            _PREFIX + "shadow_requests",
            "Requests that a shadow was given, by what came of them.",
            labels=(*_LABELS, "result"),
        )
        ranked = CounterMetricFamily(
            _PREFIX + "shadow_rows",
            "Rows of scores of a shadow by whether the highest stands where the live one does.",
            labels=(*_LABELS, "output", "argmax"),
        )
        largest = GaugeMetricFamily(
            _PREFIX + "shadow_max_abs_difference",
            "The largest difference of a shadow's numbers from the live ones.",
            labels=(*_LABELS, "output"),
        )
        for workspace, served in list(self._serving.all()):
            if served.mirror is None:
                continue
            names = workspace, served.name, served.mirror.model.source.version
            found = served.mirror.comparison
            for result, count in _ends(found).items():
                shadowed.add_metric((*names, result), count)
            for name, output in list(found.outputs.items()):
                largest.add_metric((*names, name), output.max_abs_difference)
                ranked.add_metric((*names, name, "same"), output.same_argmax)
                ranked.add_metric((*names, name, "other"), output.rows - output.same_argmax)
        for labels, model in models:
            counted = model.statistics
            for result, count in _results(model).items():
                requests.add_metric((*labels, result), count)
            _add(seconds, labels, counted.success, SECONDS_BOUNDS, 1e9)
            for stage in _STAGES:
                _add(stages, (*labels, stage), getattr(counted, stage), SECONDS_BOUNDS, 1e9)
            _add(rows, labels, counted.batch_rows, ROWS_BOUNDS, 1)
            if not isinstance(model, LoadedModel):
                continue
            waiting.add_metric(labels, model.batcher.waiting)
            if model.cache is not None:
                lookups.add_metric((*labels, "hit"), counted.cache_hit.count)
                lookups.add_metric((*labels, "miss"), counted.cache_miss.count)
                kept.add_metric(labels, model.cache.bytes)
            if model.sequences is not None:
                sequences.add_metric(labels, model.sequences.live)
        yield from (requests, waiting, seconds, stages, rows, lookups, kept, sequences)
        yield from (shadowed, ranked, largest)


def _add(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    histogram: Histogram,
    bounds: Sequence[float],
    unit: float,
) -> None:
    """Adds a histogram; ``unit`` is how many of its own units make one of the metric's."""
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    cumulative = accumulate(list(histogram.counts))
    family.add_metric(labels, list(zip(names, cumulative, strict=True)), histogram.sum / unit)


def _ends(found: Comparison) -> dict[str, int]:
    return {
        "agreed": found.agreed,
        "differed": found.compared - found.agreed,
        "failed": found.failed,
        "dropped": found.dropped,
    }


def _results(model: Model) -> dict[str, int]:
    counted = model.statistics
    failures = {reason: each.count for reason, each in list(counted.failures.items())}
    return {"OK": counted.success.duration.count, **failures}
