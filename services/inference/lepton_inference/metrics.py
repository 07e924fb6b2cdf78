"""Prometheus metrics of the models that are served now, read from their statistics when scraped.

Labels are bounded by the endpoints there are. A model that is replaced begins anew, which
Prometheus takes for a counter's reset.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lepton_inference.model import LoadedModel
from lepton_inference.serving import Serving

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
            for model in list(served.models)
        ]
        requests = CounterMetricFamily(
            _PREFIX + "requests", "Requests by how they ended.", labels=(*_LABELS, "result")
        )
        rows = CounterMetricFamily(_PREFIX + "rows", "Rows inferred.", labels=_LABELS)
        batches = CounterMetricFamily(_PREFIX + "batches", "Batches run.", labels=_LABELS)
        seconds = CounterMetricFamily(
            _PREFIX + "request_seconds",
            "Time of successful requests, by stage.",
            labels=(*_LABELS, "stage"),
        )
        waiting = GaugeMetricFamily(_PREFIX + "waiting", "Requests that wait.", labels=_LABELS)
        lookups = CounterMetricFamily(
            _PREFIX + "cache_lookups",
            "Requests by whether the response cache had their answer.",
            labels=(*_LABELS, "result"),
        )
        kept = GaugeMetricFamily(
            _PREFIX + "cache_bytes", "What the response cache holds.", labels=_LABELS
        )
        for labels, model in models:
            counted = model.statistics
            for result, count in _results(model).items():
                requests.add_metric((*labels, result), count)
            rows.add_metric(labels, counted.inferences)
            batches.add_metric(labels, counted.executions)
            waiting.add_metric(labels, model.batcher.waiting)
            for stage in _STAGES:
                seconds.add_metric((*labels, stage), getattr(counted, stage).ns / 1e9)
            if model.cache is not None:
                lookups.add_metric((*labels, "hit"), counted.cache_hit.count)
                lookups.add_metric((*labels, "miss"), counted.cache_miss.count)
                kept.add_metric(labels, model.cache.bytes)
        yield from (requests, rows, batches, seconds, waiting, lookups, kept)


def _results(model: LoadedModel) -> dict[str, int]:
    counted = model.statistics
    return {"OK": counted.success.count, "FAILED": counted.failures.count, **counted.rejected}
