"""Whether a full batch is as small as a model's shapes promise.

A graph without loops or sizes from values may still grow faster than its batch: each row with each
other, and that with itself. What a batch of the most rows takes is not computed but tried.
"""

from __future__ import annotations

import time
from functools import partial

from lepton_inference.adapters.measurement import TYPICAL_ROWS, is_memory_error, samples
from lepton_inference.adapters.model_limits import available_bytes, peak_bytes
from lepton_inference.adapters.onnx_session import OnnxSession

_LONGEST_SECONDS = 5.0
_SHARE = 0.25
"""Of the memory that is free, which a batch may take of the server's."""


def full_batch_growth(session: OnnxSession, max_rows: int) -> str:
    """What speaks against running batches of ``max_rows`` in the server; "" for nothing."""
    signature = session.signature
    rows = max_rows if signature.batched else 1
    few = min(TYPICAL_ROWS, rows)
    try:
        began = time.perf_counter()
        session.run(samples(signature, few))
        seconds = (time.perf_counter() - began) * rows / few
        if seconds > _LONGEST_SECONDS:
            return f"a batch of {rows} rows takes too long to be tried, some {seconds:.0f} s"
        free = available_bytes()
        taken = peak_bytes(partial(session.run, samples(signature, rows)))
    # A model may refuse a sample it was never meant for; then nothing is known of it.
    except Exception as error:
        if is_memory_error(error):
            return f"a batch of {rows} rows takes more memory than there is"
        return f"it refuses a sample of {rows} rows, so that nothing is known of a full batch"
    if taken > _SHARE * free:
        return f"a batch of {rows} rows takes {taken >> 20} MiB"
    return ""
