"""TraceSetting and LogSettings: settings of this process that may be changed while it runs.

Trace settings are a workspace's own. The log is the whole installation's, so that only its
operators change it; everybody who may ask models may see how both are set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.parameters import ParameterInvalid, ParameterUnsupported
from lepton_inference.serving import Admitted
from lepton_inference.wire import parameter_value
from lepton_mesh import logs
from lepton_mesh.authorization import Rule, authorize
from lepton_mesh.caller import Role
from lepton_mesh.errors import FailedPrecondition, PermissionDenied

_OPERATORS = "default"
"""The workspace whose admins operate the installation."""
_LEVELS = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_VERBOSE = "log_verbose_level"
_FORMAT = "log_format"
_FILE = "log_file"


class LogSettingsDenied(PermissionDenied):
    reason = "LOG_SETTINGS_DENIED"


class LogNotConfigured(FailedPrecondition):
    """The process logs by other means than lepton_mesh.logs."""

    reason = "LOG_NOT_CONFIGURED"


Handlers = dict[str, tuple[type[Message], Callable[[Admitted, Any], Any]]]


def settings_methods() -> Handlers:
    """The two methods, by name."""
    return {
        "TraceSetting": (pb.TraceSettingRequest, _trace),
        "LogSettings": (pb.LogSettingsRequest, _log),
    }


async def _trace(admitted: Admitted, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
    model = request.model_name
    if model:
        admitted.workspace.find(model)
    if request.settings:
        least = Role.DEVELOPER if model else Role.ADMIN
        authorize(Rule(min_role=least), admitted.caller, "TraceSetting")
        changes = {name: list(value.value) for name, value in request.settings.items()}
        admitted.workspace.trace(model, changes)
    values = admitted.workspace.tracing.settings(model).plain()
    return pb.TraceSettingResponse(
        settings={
            name: pb.TraceSettingResponse.SettingValue(value=value)
            for name, value in values.items()
        }
    )


async def _log(admitted: Admitted, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
    try:
        now = logs.settings()
        if request.settings:
            _check_operator(admitted)
            given = {name: parameter_value(value) for name, value in request.settings.items()}
            now = _changed(now, given)
            logs.change_settings(now)
    except LookupError:
        raise LogNotConfigured("this process has no log whose settings could be changed") from None
    said: dict[str, dict[str, Any]] = {
        name: {"bool_param": getattr(now, field)} for name, field in _LEVELS.items()
    }
    said[_VERBOSE] = {"uint32_param": int(now.debug)}
    said[_FORMAT] = {"string_param": now.format}
    return pb.LogSettingsResponse(
        settings={
            name: pb.LogSettingsResponse.SettingValue(**value) for name, value in said.items()
        }
    )


def _check_operator(admitted: Admitted) -> None:
    authorize(Rule(min_role=Role.ADMIN), admitted.caller, "LogSettings")
    if admitted.caller.workspace != _OPERATORS:
        raise LogSettingsDenied(
            "the log is the whole installation's, and its operators' to change; log in to "
            f"workspace '{_OPERATORS}' as an admin",
            workspace=_OPERATORS,
        )


def _changed(settings: logs.LogSettings, given: Mapping[str, object]) -> logs.LogSettings:
    """The settings with those that are given; None for what it is at first."""
    for name, value in given.items():
        if name in _LEVELS:
            wanted = True if value is None else value
            if not isinstance(wanted, bool):
                raise _invalid(name, value, "a truth value")
            level_wanted: Any = {_LEVELS[name]: wanted}
            settings = replace(settings, **level_wanted)
        elif name == _VERBOSE:
            level = 0 if value is None else value
            if isinstance(level, bool) or not isinstance(level, int) or level < 0:
                raise _invalid(name, value, "0, or 1 for everything")
            settings = replace(settings, debug=level > 0)
        elif name == _FORMAT:
            form = logs.FORMATS[0] if value is None else value
            if form not in logs.FORMATS:
                raise _invalid(name, value, " or ".join(logs.FORMATS))
            settings = replace(settings, format=str(form))
        elif name == _FILE:
            raise ParameterUnsupported(
                "the log setting 'log_file' is not supported: services log to standard error",
                parameter=name,
            )
        else:
            known = ", ".join((*_LEVELS, _VERBOSE, _FORMAT))
            raise ParameterInvalid(
                f"there is no log setting '{name}'; there are {known}", parameter=name
            )
    return settings


def _invalid(name: str, value: object, takes: str) -> ParameterInvalid:
    return ParameterInvalid(
        f"the log setting '{name}' is {value!r}; it takes {takes}", parameter=name
    )
