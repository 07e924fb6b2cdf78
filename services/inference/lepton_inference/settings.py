"""How an endpoint's models are served: what users set, and the bounds of it.

Plain values, compared to see whether a loaded model is still right, and kept with the endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.texts import counted

MAX_ROWS = 4096
MAX_DELAY_SECONDS = 10.0
MAX_QUEUE = 1 << 20
MAX_PREFERRED = 16
MAX_PRIORITIES = 64
MAX_INSTANCES = 64
MAX_MEMORY_MIB = 1 << 20
MAX_RUN_MS = 3_600_000
MAX_DEVICE = 63
MIN_CACHE_BYTES = 4096
MAX_CACHE_BYTES = 1 << 40
MAX_IDLE_SECONDS = 86_400.0
MAX_SEQUENCES = 1 << 16
MAX_STEPS = 1 << 16
MAX_LINKS = 64


class EndpointInvalid(InvalidArgument):
    reason = "ENDPOINT_INVALID"


@dataclass(frozen=True)
class BatchingSettings:
    """How requests for one model are put together."""

    max_rows: int = 64
    """The most rows in one batch; also the most in one request."""
    max_delay_seconds: float = 0.0
    """How long a batch may wait to fill."""
    max_queue: int = 4096
    """Requests that may wait; the next is refused."""
    preferred_rows: tuple[int, ...] = ()
    """Sizes that a batch is cut to when more rows wait, ascending; empty for any size."""
    adaptive_delay: bool = False
    """Whether the delay follows the load, at most ``max_delay_seconds``."""
    priority_levels: int = 1
    """Levels of priority, 1 being served first."""
    default_priority: int = 1
    """The level of a request that names none."""
    pad_ragged: bool = False
    """Whether rows of different lengths are padded to share a batch."""


class Isolation(Enum):
    """Where a model runs."""

    AUTO = "AUTO"
    """In the server's process if its shapes bound what it takes, else in one of its own."""
    SHARED = "SHARED"
    """In the server's process."""
    OWN_PROCESS = "OWN_PROCESS"
    """In a process of its own, one for each instance."""


@dataclass(frozen=True)
class ExecutionSettings:
    """How a model runs."""

    instances: int = 1
    """Batches that may run at a time."""
    isolation: Isolation = Isolation.AUTO
    memory_limit_mib: int = 0
    """That its process may take beyond what an empty one has; 0 for most of what is free."""
    max_run_ms: int = 0
    """How long a batch may run in its process; 0 for a minute."""
    devices: tuple[int, ...] = ()
    """GPUs that the instances are spread over; empty for those there are, or the CPU."""
    cuda_graphs: bool = False
    """Whether what a GPU is told for a batch is recorded once and replayed."""
    tensorrt: bool = False
    """Whether TensorRT compiles the model for the GPU."""


@dataclass(frozen=True)
class Link:
    """An output of the model that is an input of its next run."""

    output: str
    input: str


@dataclass(frozen=True)
class SequenceSettings:
    """What a model remembers."""

    states: tuple[Link, ...] = ()
    """What is kept for a sequence from one request to the next."""
    max_idle_seconds: float = 60.0
    """How long a sequence is kept without a request."""
    max_sequences: int = 1024
    """Sequences that are kept at a time, of all users; of n users who have some, each may begin
    another while it has fewer than ``max_sequences // (n + 1)``, one at least, and where all are
    taken, the one idle for longest is ended of the user who has most."""
    feed_back: tuple[Link, ...] = ()
    """What is handed from one step of a request to the next."""
    max_steps: int = 1024
    """The most steps of one request."""


@dataclass(frozen=True)
class ModelSettings:
    """Everything that decides how one loaded model is served."""

    batching: BatchingSettings = field(default_factory=BatchingSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    response_cache_bytes: int = 0
    """The most that kept answers take; 0 keeps none."""
    sequences: SequenceSettings | None = None


def check_model_settings(settings: ModelSettings) -> None:
    """Raises EndpointInvalid for a setting out of bounds, or one without effect."""
    _check_batching(settings.batching)
    _check_execution(settings.execution)
    if settings.response_cache_bytes:
        cache_bytes = settings.response_cache_bytes
        _within("response_cache_bytes", cache_bytes, MIN_CACHE_BYTES, MAX_CACHE_BYTES)
    if settings.sequences is not None:
        _check_sequences(settings.sequences)
        if settings.response_cache_bytes:
            raise EndpointInvalid(
                "response_cache_bytes has no effect on a model with sequences, whose answers "
                "depend on more than a request's inputs",
                field="response_cache_bytes",
            )


def default_level(asked: int, levels: int) -> int:
    """The level of requests that name none: the one that was asked for, the last where it is 0.

    Raises:
        EndpointInvalid: One was asked for, and there are no levels to choose from.
    """
    if asked and levels <= 1:
        raise EndpointInvalid(
            "batching.default_priority has no effect without several batching.priority_levels",
            field="batching.default_priority",
        )
    return asked or levels


def check_effect(settings: ModelSettings, *, batched: bool, ragged: bool) -> None:
    """Raises EndpointInvalid for a setting that has no effect on a certain model.

    Args:
        settings: Which passed :func:`check_model_settings`.
        batched: Whether requests to the model may share a batch.
        ragged: Whether its inputs have free dimensions beyond the batch.
    """
    batching = settings.batching
    for name, is_set, has_effect in (
        ("max_delay_us", batching.max_delay_seconds > 0, batched),
        ("preferred_batch_rows", bool(batching.preferred_rows), batched),
        ("pad_ragged", batching.pad_ragged, batched and ragged),
    ):
        if is_set and not has_effect:
            why = (
                "its inputs have no free dimension beyond the batch"
                if batched
                else "its rows cannot share a batch"
            )
            raise EndpointInvalid(
                f"batching.{name} has no effect on this model: {why}", field=f"batching.{name}"
            )


def _check_batching(batching: BatchingSettings) -> None:
    _within("batching.max_batch_rows", batching.max_rows, 1, MAX_ROWS)
    most = MAX_DELAY_SECONDS * 1e6
    _within("batching.max_delay_us", batching.max_delay_seconds * 1e6, 0, most)
    _within("batching.max_queue", batching.max_queue, 1, MAX_QUEUE)
    preferred = batching.preferred_rows
    _within("the number of batching.preferred_batch_rows", len(preferred), 0, MAX_PREFERRED)
    if list(preferred) != sorted(set(preferred)) or any(
        not 1 <= rows <= batching.max_rows for rows in preferred
    ):
        raise EndpointInvalid(
            f"batching.preferred_batch_rows is {list(preferred)}; give sizes in ascending order, "
            f"each of 1 to max_batch_rows ({batching.max_rows})",
            field="batching.preferred_batch_rows",
        )
    if batching.adaptive_delay and not batching.max_delay_seconds:
        raise EndpointInvalid(
            "batching.adaptive_delay has no effect without batching.max_delay_us, its bound",
            field="batching.adaptive_delay",
        )
    if batching.max_rows == 1 and (preferred or batching.max_delay_seconds or batching.pad_ragged):
        raise EndpointInvalid(
            "batching.max_delay_us, batching.preferred_batch_rows and batching.pad_ragged have "
            "no effect while batching.max_batch_rows is 1",
            field="batching.max_batch_rows",
        )
    _within("batching.priority_levels", batching.priority_levels, 1, MAX_PRIORITIES)
    _within("batching.default_priority", batching.default_priority, 1, batching.priority_levels)


def _check_sequences(sequences: SequenceSettings) -> None:
    _within("sequences.max_idle_us", sequences.max_idle_seconds * 1e6, 1, MAX_IDLE_SECONDS * 1e6)
    _within("sequences.max_sequences", sequences.max_sequences, 1, MAX_SEQUENCES)
    _within("sequences.max_steps", sequences.max_steps, 1, MAX_STEPS)
    _within("the number of sequences.states", len(sequences.states), 0, MAX_LINKS)
    _within("the number of sequences.feed_back", len(sequences.feed_back), 0, MAX_LINKS)
    links = (*sequences.states, *sequences.feed_back)
    if not links:
        raise EndpointInvalid(
            "sequences has neither states nor feed_back, and so no effect; name the tensors that "
            "the model remembers, or leave it out",
            field="sequences",
        )
    for side in ("input", "output"):
        names = [getattr(link, side) for link in links]
        if "" in names or len(set(names)) != len(names):
            raise EndpointInvalid(
                f"sequences.states and sequences.feed_back have the {side}s {names}; name each "
                "tensor once",
                field="sequences",
            )
    for name, needs, there in (
        ("max_idle_seconds", "states", sequences.states),
        ("max_sequences", "states", sequences.states),
        ("max_steps", "feed_back", sequences.feed_back),
    ):
        if not there and getattr(sequences, name) != getattr(SequenceSettings, name):
            said = name.replace("_seconds", "_us")
            raise EndpointInvalid(
                f"sequences.{said} has no effect without sequences.{needs}",
                field=f"sequences.{said}",
            )


def _check_execution(execution: ExecutionSettings) -> None:
    _within("execution.instances", execution.instances, 1, MAX_INSTANCES)
    _within("execution.memory_limit_mib", execution.memory_limit_mib, 0, MAX_MEMORY_MIB)
    _within("execution.max_run_ms", execution.max_run_ms, 0, MAX_RUN_MS)
    for device in execution.devices:
        _within("execution.devices", device, 0, MAX_DEVICE)
    if len(set(execution.devices)) != len(execution.devices):
        raise EndpointInvalid(
            f"execution.devices is {list(execution.devices)}; name each GPU once",
            field="execution.devices",
        )
    if len(execution.devices) > execution.instances:
        raise EndpointInvalid(
            f"execution.devices names {len(execution.devices)} GPUs for "
            f"{counted(execution.instances, 'instance')}: some would be idle; raise "
            "execution.instances",
            field="execution.devices",
        )
    if execution.isolation is Isolation.SHARED:
        for name in ("memory_limit_mib", "max_run_ms"):
            if getattr(execution, name):
                raise EndpointInvalid(
                    f"execution.{name} has no effect while execution.isolation is SHARED; a model "
                    "has limits in a process of its own: OWN_PROCESS",
                    field=f"execution.{name}",
                )


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise EndpointInvalid(f"{name} is {value:.0f}; use {least:.0f} to {most:.0f}", field=name)
