"""Which requests are traced by this server's own choice, and what their spans say.

A request that is part of a sampled trace has a span in any case (:mod:`lepton_inference.asgi`).
Beyond that a workspace may have every n-th request of its models recorded, as Triton's trace
settings say; its span lies in the caller's trace where there is one. Settings are of this process
and end with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Span, SpanKind

from lepton_inference.parameters import ParameterInvalid, ParameterUnsupported
from lepton_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from lepton_inference.batch import Outcome
    from lepton_inference.model import ModelSource
    from lepton_mesh.telemetry import Telemetry

SPAN_INFER: Final = "infer"
SPAN_MODEL: Final = "lepton.model"
SPAN_VERSION: Final = "lepton.model.version"
EVENT_COMPUTE_START: Final = "COMPUTE_START"
EVENT_COMPUTE_INPUT_END: Final = "COMPUTE_INPUT_END"
EVENT_COMPUTE_OUTPUT_START: Final = "COMPUTE_OUTPUT_START"
"""Triton's names of the moments of a batch; the span itself is from the request to its answer."""

_LEVELS = {("OFF",): False, ("TIMESTAMPS",): True}
_MODE = "opentelemetry"
_LARGEST = 2**31 - 1
_UNSUPPORTED = {
    "trace_file": "spans go to LEPTON_OTLP_ENDPOINT",
    "log_frequency": "spans are exported as they come",
}

Values = Sequence[str]
"""Of one setting; empty puts it back to what it is without."""


class TracingOff(FailedPrecondition):
    """Nothing of what would be traced leaves this process."""

    reason = "TRACING_OFF"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Triton's trace settings, as far as they have an effect here."""

    timestamps: bool = False
    """Whether requests are traced at all: trace_level TIMESTAMPS."""
    rate: int = 1000
    """One request of so many is."""
    count: int = -1
    """How many more; -1 for no end."""

    def plain(self) -> dict[str, list[str]]:
        """Triton's names and values of them."""
        return {
            "trace_level": ["TIMESTAMPS" if self.timestamps else "OFF"],
            "trace_rate": [str(self.rate)],
            "trace_count": [str(self.count)],
            "trace_mode": [_MODE],
        }


class Sampler:
    """Says which requests are traced, and traces them."""

    def __init__(self, settings: TraceSettings, telemetry: Telemetry) -> None:
        self._rate = settings.rate
        self._telemetry = telemetry
        self._seen = 0
        self.left = settings.count
        """How many more; -1 for no end."""

    def due(self) -> bool:
        """Whether the next request is; asked once for each."""
        self._seen += 1
        if self._seen % self._rate or not self.left:
            return False
        if self.left > 0:
            self.left -= 1
        return True

    @contextmanager
    def span(self, source: ModelSource) -> Iterator[Traced]:
        """The span of one request, from now to the end of the block."""
        attributes = {SPAN_MODEL: source.name, SPAN_VERSION: source.version}
        with self._telemetry.span(
            SPAN_INFER, kind=SpanKind.SERVER, attributes=attributes, sampled=True
        ) as span:
            yield Traced(span)


class Traced:
    """A request that is being traced."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._started_ns = time.perf_counter_ns()

    def answered(self, outcome: Outcome) -> None:
        """Notes the moments of the batch that answered; a kept answer has none of its own."""
        times = outcome[0].times
        if times is None or times.started_ns < self._started_ns:
            return
        to_unix = time.time_ns() - time.perf_counter_ns()
        for name, moment in (
            (EVENT_COMPUTE_START, times.started_ns),
            (EVENT_COMPUTE_INPUT_END, times.joined_ns),
            (EVENT_COMPUTE_OUTPUT_START, times.inferred_ns),
        ):
            self._span.add_event(name, timestamp=moment + to_unix)


class Tracing:
    """The trace settings of one workspace: its own, and those of models that differ."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry
        self._own: dict[str, Values] = {}
        self._models: dict[str, dict[str, Values]] = {}
        self._samplers: dict[str, Sampler | None] = {"": None}
        """By model with settings of its own; "" for all others together."""

    def settings(self, model: str = "") -> TraceSettings:
        """Those of a model, or the workspace's; ``count`` is what is left of it."""
        settings = _parsed(self._values(model))
        sampler = self.sampler(model)
        return settings if sampler is None else replace(settings, count=sampler.left)

    def sampler(self, model: str) -> Sampler | None:
        """Which of a model's requests are traced; None for none."""
        return self._samplers[model if model in self._models else ""]

    def change(self, model: str, changes: Mapping[str, Values]) -> None:
        """Changes a model's settings, or with "" those that hold for models without.

        Raises:
            ParameterInvalid, ParameterUnsupported: Nothing is changed then.
            TracingOff: Requests are to be traced, and no spans leave this process.
        """
        before = self._own if not model else self._models.get(model, {})
        after = {name: values for name, values in {**before, **changes}.items() if values}
        for name in changes:
            _check_name(name)
        for_all = {} if not model else self._own
        settings = _parsed({**for_all, **after})
        if settings.timestamps and (self._telemetry is None or not self._telemetry.exports):
            raise TracingOff(
                "no spans leave this service; set LEPTON_OTLP_ENDPOINT to where they are to go"
            )
        if not model:
            self._own = after
        elif after:
            self._models[model] = after
        else:
            self.forget(model)
        for name in ("", *self._models) if not model else (model,):
            self._renew(name)

    def forget(self, model: str) -> None:
        """For a model that is gone."""
        self._models.pop(model, None)
        self._samplers.pop(model, None)

    def _values(self, model: str) -> dict[str, Values]:
        return {**self._own, **self._models.get(model, {})}

    def _renew(self, model: str) -> None:
        if model and model not in self._models:
            return
        settings = _parsed(self._values(model))
        telemetry = self._telemetry
        made = settings.timestamps and telemetry is not None
        self._samplers[model] = Sampler(settings, telemetry) if made and telemetry else None


def _check_name(name: str) -> None:
    if name in _UNSUPPORTED:
        raise ParameterUnsupported(
            f"the trace setting '{name}' is not supported: {_UNSUPPORTED[name]}", parameter=name
        )
    if name not in TraceSettings().plain():
        raise ParameterInvalid(
            f"there is no trace setting '{name}'; there are {', '.join(TraceSettings().plain())}",
            parameter=name,
        )


def _parsed(values: Mapping[str, Values]) -> TraceSettings:
    settings = TraceSettings()
    if level := tuple(values.get("trace_level", ())):
        if level not in _LEVELS:
            raise ParameterUnsupported(
                f"the trace_level {', '.join(level)} is not supported; use OFF or TIMESTAMPS: "
                "tensors never go into spans",
                parameter="trace_level",
            )
        settings = replace(settings, timestamps=_LEVELS[level])
    if (mode := values.get("trace_mode")) and list(mode) != [_MODE]:
        raise ParameterUnsupported(
            f"the trace_mode {', '.join(mode)} is not supported; this server has {_MODE}",
            parameter="trace_mode",
        )
    if rate := values.get("trace_rate"):
        settings = replace(settings, rate=_whole("trace_rate", rate, 1))
    if count := values.get("trace_count"):
        settings = replace(settings, count=_whole("trace_count", count, -1))
    return settings


def _whole(name: str, values: Values, least: int) -> int:
    text = values[0] if len(values) == 1 else ", ".join(values)
    number = int(text) if len(text) < 12 and text.lstrip("-").isdecimal() else least - 1
    if not least <= number <= _LARGEST:
        raise ParameterInvalid(
            f"the {name} is {text!r}; it takes a whole number from {least}", parameter=name
        )
    return number
