"""What is wrong with a model, found when it is tried or while it runs.

    InvalidArgument      <- ModelInvalid        not an ONNX model that can be served
                         <- InputRefused        a node of it does not take what a request holds
    FailedPrecondition   <- ProviderMissing     a GPU, or a library for it, is not there
    ResourceExhausted    <- ModelDoesNotFit     it needs more memory than there is
                         <- ModelTimeout        loading it, or a first run, does not end
                         <- RunTooLong          a batch took longer than it may
                         <- MemoryLimit         a batch needed more memory than it may have
    Unavailable          <- ModelCrashed        it ended the process that it ran in
                         <- ModelRestarting     it did so too often of late

What a model does wrong it does again: a deployment that fails so is not tried again, and a
request is not worth sending again, except to a model that is only restarting.
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


class InputRefused(InvalidArgument):
    reason = "INPUT_REFUSED"


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


class RunTooLong(ResourceExhausted):
    reason = "RUN_TOO_LONG"
    wire = Wire(8, "RESOURCE_EXHAUSTED", 429, False)


class MemoryLimit(ResourceExhausted):
    reason = "MEMORY_LIMIT"
    wire = Wire(8, "RESOURCE_EXHAUSTED", 429, False)


class ModelRestarting(Unavailable):
    reason = "MODEL_RESTARTING"


class RunUnwanted(Exception):
    """Nothing is wrong: nobody waited for a run any more, and it was ended."""
