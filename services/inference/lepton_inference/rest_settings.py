"""TraceSetting and LogSettings as the JSON of the protocol's REST half."""

from __future__ import annotations

from typing import Any

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.parameters import ParameterInvalid
from lepton_inference.rest_codec import json_object
from lepton_inference.wire import parameter_value


def trace_request(model: str, body: bytes) -> pb.TraceSettingRequest:
    """Of a body that may be empty; a value is text, a number, a list of text, or null."""
    request = pb.TraceSettingRequest(model_name=model)
    for name, value in json_object(body or b"{}").items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in values):
            raise ParameterInvalid(
                f"the trace setting '{name}' is {value!r}; it takes text or a list of it",
                parameter=name,
            )
        request.settings[name].value.extend(str(each) for each in values)
    return request


def trace_content(response: pb.TraceSettingResponse) -> dict[str, Any]:
    """Text, but for the level, which may be several."""
    return {
        name: list(setting.value) if name == "trace_level" else setting.value[0]
        for name, setting in response.settings.items()
    }


def log_request(body: bytes) -> pb.LogSettingsRequest:
    """Of a body that may be empty; a value is text, a number, a truth value, or null."""
    request = pb.LogSettingsRequest()
    for name, value in json_object(body or b"{}").items():
        setting = request.settings[name]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int) and 0 <= value < 2**32:
            setting.uint32_param = value
        elif isinstance(value, str):
            setting.string_param = value
        elif value is not None:
            raise ParameterInvalid(
                f"the log setting '{name}' is {value!r}; it takes a truth value, a number or text",
                parameter=name,
            )
    return request


def log_content(response: pb.LogSettingsResponse) -> dict[str, Any]:
    """Each value as what it is."""
    return {name: parameter_value(setting) for name, setting in response.settings.items()}
