"""REST answers that need no server to be looked at."""

from __future__ import annotations

import pytest

from lepton_inference.batcher import QueueFull
from lepton_inference.model_errors import ModelCrashed, RunTooLong
from lepton_inference.open_inference import OpenInference
from lepton_inference.rest import Rest
from lepton_inference.serving import EndpointNotReady, Serving
from lepton_inference.tensors import TensorInvalid
from lepton_mesh.errors import LeptonError
from tests.unit.inference.test_asgi import OpenGate


@pytest.mark.parametrize(
    ("error", "seconds", "header"),
    [
        (QueueFull("full"), 0.02, b"1"),
        (QueueFull("full"), 2.1, b"3"),
        (EndpointNotReady("loading"), 1.0, b"1"),
        (TensorInvalid("wrong"), 1.0, None),
        (ModelCrashed("it ended the process"), 1.0, None),
        (RunTooLong("over max_run"), 1.0, None),
    ],
)
def test_what_may_succeed_later_says_when(
    error: LeptonError, seconds: float, header: bytes | None
) -> None:
    """In whole seconds, rounded up; not where the same request fails again."""
    serving = Serving()
    rest = Rest(OpenInference(serving), OpenGate(serving), 1024)
    error.retry_after_seconds = seconds
    status, headers, _ = rest.error(error)
    assert status == error.wire.http_status
    assert dict(headers).get(b"retry-after") == header
