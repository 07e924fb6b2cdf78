"""What is wrong with a model, found when it is tried or while it runs.

    InvalidArgument      <- ModelInvalid        not an ONNX model that can be served
    FailedPrecondition   <- ProviderMissing     a GPU, or a library for it, is not there
    ResourceExhausted    <- ModelDoesNotFit     it needs more memory than there is
                         <- ModelTimeout        loading it, or a first run, does not end
    Unavailable          <- ModelCrashed        it ended the process that it ran in

What a model does wrong it does again, so a deployment that fails so is not tried again.
"""

from __future__ import annotations

from lepton_mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Wire,
)


class ModelInvalid(InvalidArgument):
    reason = "MODEL_INVALID"


class ProviderMissing(FailedPrecondition):
    reason = "EXECUTION_PROVIDER_MISSING"


class ModelDoesNotFit(ResourceExhausted):
    reason = "MODEL_DOES_NOT_FIT"
    wire = Wire(8, "RESOURCE_EXHAUSTED", 429, False)


class ModelTimeout(ResourceExhausted):
    reason = "MODEL_TIMEOUT"
    wire = Wire(8, "RESOURCE_EXHAUSTED", 429, False)


class ModelCrashed(Unavailable):
    reason = "MODEL_CRASHED"
    wire = Wire(14, "UNAVAILABLE", 503, False)
