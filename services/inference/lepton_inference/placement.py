"""How a model runs on this machine, chosen when it is loaded and reported by ModelConfig."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_inference.settings import Isolation


@dataclass(frozen=True, slots=True)
class Placement:
    """What was chosen for one model."""

    provider: str
    """ONNX Runtime's name of the execution provider."""
    threads: int
    """That one batch is computed with."""
    inline_rows: int
    """The largest batch that runs on the event loop, measured at load; 0 for none."""
    enough_rows: int = 0
    """Rows beyond which a larger batch gives no more a second, measured at load; 0 for unknown."""
    note: str = ""
    """What of this machine is left unused, and what to do about it; "" for nothing."""
    isolation: Isolation = Isolation.SHARED
    """Where it runs: SHARED or OWN_PROCESS."""
    isolation_reason: str = ""
    """Why there."""
    devices: tuple[int, ...] = ()
    """GPUs that its instances are spread over; empty on the CPU."""
    graph_rows: tuple[int, ...] = ()
    """Sizes of batch that run as CUDA graphs; empty for none."""
    pinned: bool = False
    """Whether batches are joined in page-locked memory, which a GPU reads directly."""
