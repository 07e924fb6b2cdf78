"""How an endpoint's models are served: what users set, and the bounds of it.

Plain values, compared to see whether a loaded model is still right, and kept with the endpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lepton_mesh.errors import InvalidArgument

MAX_ROWS = 4096
MAX_DELAY_SECONDS = 10.0
MAX_QUEUE = 1 << 20
MAX_PREFERRED = 16
MAX_PRIORITIES = 64
MAX_STATES = 64
MAX_IDLE_SECONDS = 24 * 3600.0
MAX_SEQUENCES = 1 << 20
MAX_INSTANCES = 64
MAX_RUN_SECONDS = 3600.0
MAX_CACHE_BYTES = 1 << 40
MAX_STEPS = 64


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


@dataclass(frozen=True)
class StateTensor:
    """A tensor that a model keeps between the requests of a sequence."""

    input: str
    output: str


@dataclass(frozen=True)
class SequenceSettings:
    """How a model with state is served."""

    states: tuple[StateTensor, ...]
    max_idle_seconds: float = 60.0
    """How long a sequence may be silent before its state is dropped."""
    max_sequences: int = 1024
    feed_back: bool = False
    """Whether a streamed request may ask for several steps, outputs fed back as inputs."""


class Isolation(Enum):
    """Where a model runs."""

    AUTO = "AUTO"
    SHARED = "SHARED"
    OWN_PROCESS = "OWN_PROCESS"


@dataclass(frozen=True)
class ExecutionSettings:
    """Where and how a model runs."""

    instances: int = 1
    """Batches that may run at a time."""
    provider: str = ""
    """``cpu``, ``cuda`` or ``tensorrt``; empty to choose."""
    devices: tuple[int, ...] = ()
    """GPUs for the instances, in turn; empty for all."""
    cuda_graphs: bool = False
    isolation: Isolation = Isolation.AUTO
    memory_limit_mib: int = 0
    """What the model's own process may take; 0 for no bound."""
    max_run_seconds: float = 60.0
    """Longest that one batch may run."""


@dataclass(frozen=True)
class ModelSettings:
    """Everything that decides how one loaded model is served."""

    batching: BatchingSettings = field(default_factory=BatchingSettings)
    sequence: SequenceSettings | None = None
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)
    response_cache_bytes: int = 0
    """Most bytes of answers that are kept for equal requests."""


@dataclass(frozen=True)
class EnsembleStep:
    """One endpoint of an ensemble, and the ensemble's tensors that it takes and gives."""

    endpoint: str
    """Its id."""
    inputs: tuple[tuple[str, str], ...]
    """(the step's input, the ensemble's tensor) pairs."""
    outputs: tuple[tuple[str, str], ...]
    """(the step's output, the ensemble's tensor) pairs."""


@dataclass(frozen=True)
class Ensemble:
    """Several endpoints as one."""

    steps: tuple[EnsembleStep, ...]
    outputs: tuple[str, ...] = ()
    """Tensors that are its outputs; those that no step takes when empty."""


def check_model_settings(settings: ModelSettings) -> None:
    """Raises EndpointInvalid for a setting out of bounds, or one without effect."""
    _check_batching(settings.batching)
    _check_execution(settings.execution)
    _within("response_cache_bytes", settings.response_cache_bytes, 0, MAX_CACHE_BYTES)
    sequence = settings.sequence
    if sequence is None:
        return
    _within("the number of sequence.states", len(sequence.states), 1, MAX_STATES)
    _within("sequence.max_idle_us", sequence.max_idle_seconds * 1e6, 1, MAX_IDLE_SECONDS * 1e6)
    _within("sequence.max_sequences", sequence.max_sequences, 1, MAX_SEQUENCES)
    for names in zip(*[(state.input, state.output) for state in sequence.states], strict=True):
        if len(set(names)) != len(names) or not all(names):
            raise EndpointInvalid(
                "sequence.states names a tensor twice or not at all; give each state one input "
                "and one output of its own",
                field="sequence.states",
            )
    if settings.response_cache_bytes:
        raise EndpointInvalid(
            "response_cache_bytes and sequence exclude each other: the same request to a model "
            "with state has another answer each time",
            field="response_cache_bytes",
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
    _within("batching.priority_levels", batching.priority_levels, 1, MAX_PRIORITIES)
    _within("batching.default_priority", batching.default_priority, 1, batching.priority_levels)


def _check_execution(execution: ExecutionSettings) -> None:
    _within("execution.instances", execution.instances, 1, MAX_INSTANCES)
    _within("execution.memory_limit_mib", execution.memory_limit_mib, 0, 1 << 24)
    _within("execution.max_run_us", execution.max_run_seconds * 1e6, 1, MAX_RUN_SECONDS * 1e6)
    if execution.provider not in ("", "cpu", "cuda", "tensorrt"):
        raise EndpointInvalid(
            f"execution.provider is '{execution.provider}'; use cpu, cuda or tensorrt, or leave "
            "it empty",
            field="execution.provider",
        )
    if any(device < 0 for device in execution.devices):
        raise EndpointInvalid(
            "execution.devices has a negative number; GPUs count from 0", field="execution.devices"
        )
    if execution.provider == "cpu" and (execution.devices or execution.cuda_graphs):
        raise EndpointInvalid(
            "execution.devices and execution.cuda_graphs have no effect on the provider cpu",
            field="execution.provider",
        )
    if execution.memory_limit_mib and execution.isolation is not Isolation.OWN_PROCESS:
        raise EndpointInvalid(
            "execution.memory_limit_mib needs execution.isolation OWN_PROCESS",
            field="execution.memory_limit_mib",
        )


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise EndpointInvalid(f"{name} is {value:.0f}; use {least:.0f} to {most:.0f}", field=name)
