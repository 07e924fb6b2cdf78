"""How a job with a user's own code fails, beside the ways of every job.

InvalidArgument
├── CodeInvalid              the archive cannot be unpacked
├── CodeFunctionInvalid      there is no such function in it
└── MetricsInvalid           it reported what is no number
FailedPrecondition
├── PythonEnvironmentFailed  pip could not install its requirements
├── CodeFailed               it raised
├── CodeExited               it ended by itself before it was done
├── CodeKilled               a signal ended it
├── CodeProcesses            it had more processes than it may
├── CodeUnconfined           this machine cannot keep it from others' files
├── CodeNoModel              it gave no torch.nn.Module
└── CodeModelInvalid         its module does not fit the data, or cannot be written as ONNX
"""

from __future__ import annotations

from lepton_mesh.errors import FailedPrecondition, InvalidArgument


class CodeInvalid(InvalidArgument):
    reason = "CODE_INVALID"


class CodeFunctionInvalid(InvalidArgument):
    reason = "CODE_FUNCTION_INVALID"


class MetricsInvalid(InvalidArgument):
    reason = "METRICS_INVALID"


class PythonEnvironmentFailed(FailedPrecondition):
    reason = "PYTHON_ENVIRONMENT_FAILED"


class CodeFailed(FailedPrecondition):
    reason = "CODE_FAILED"


class CodeExited(FailedPrecondition):
    reason = "CODE_EXITED"


class CodeKilled(FailedPrecondition):
    reason = "CODE_KILLED"


class CodeProcesses(FailedPrecondition):
    reason = "CODE_PROCESSES"


class CodeUnconfined(FailedPrecondition):
    reason = "CODE_UNCONFINED"


class CodeNoModel(FailedPrecondition):
    reason = "CODE_NO_MODEL"


class CodeModelInvalid(FailedPrecondition):
    reason = "CODE_MODEL_INVALID"
