"""LogSettings: how they are said in the protocol's terms, and who may change them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted, Serving
from lepton_inference.wire import parameter_value
from lepton_mesh import logs
from lepton_mesh.caller import Caller, Role
from lepton_mesh.errors import LeptonError

OPERATOR = Caller("user", "users/ada", "default", Role.ADMIN)


@pytest.fixture
def configured() -> Iterator[None]:
    """A log of this process' own; what was there before is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("inference", "one", stream=io.StringIO())
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


async def ask(caller: Caller = OPERATOR, **settings: Any) -> dict[str, Any]:
    """The settings after changing those given; None to put one back."""
    serving = Serving()
    request = pb.LogSettingsRequest()
    for name, value in settings.items():
        setting = request.settings[name]
        kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}.get(type(value))
        if kind is not None:
            setattr(setting, kind, value)
    admitted = Admitted(caller, serving.workspace(caller.workspace))
    answer = await OpenInference(serving).call("LogSettings", admitted, request.SerializeToString())
    found = pb.LogSettingsResponse.FromString(answer).settings
    return {name: parameter_value(setting) for name, setting in found.items()}


FIRST = {
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "json",
}


async def test_settings_are_changed_and_put_back(configured: None) -> None:
    """With effect on the process, and only those that are named."""
    assert await ask() == FIRST
    changed = {"log_info": False, "log_verbose_level": 1, "log_format": "console"}
    assert await ask(**changed) == FIRST | changed
    assert logs.settings() == logs.LogSettings(debug=True, info=False, format="console")
    assert await ask(log_info=None, log_verbose_level=None, log_format=None) == FIRST


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("log_file", "lepton.log", "PARAMETER_UNSUPPORTED"),
        ("log_colour", True, "PARAMETER_INVALID"),
        ("log_info", 1, "PARAMETER_INVALID"),
        ("log_verbose_level", True, "PARAMETER_INVALID"),
        ("log_format", "ISO8601", "PARAMETER_INVALID"),
    ],
)
async def test_what_has_no_effect_is_refused_by_name(
    configured: None, name: str, value: Any, reason: str
) -> None:
    """Nothing of what was asked beside it is set either."""
    with pytest.raises(LeptonError, match=name) as caught:
        await ask(log_warning=False, **{name: value})
    assert caught.value.reason == reason
    assert await ask() == FIRST


async def test_only_the_installations_operators_change_the_log(configured: None) -> None:
    """An admin of another workspace is one of many; everybody may look."""
    for caller, reason in (
        (Caller("user", "users/bob", "lab", Role.ADMIN), "LOG_SETTINGS_DENIED"),
        (Caller("user", "users/eve", "default", Role.DEVELOPER), "ROLE_TOO_LOW"),
    ):
        with pytest.raises(LeptonError) as caught:
            await ask(caller, log_error=False)
        assert caught.value.reason == reason
        assert await ask(caller) == FIRST


async def test_a_process_that_logs_otherwise_says_so() -> None:
    """Its settings are not ours to tell."""
    with pytest.raises(LeptonError) as caught:
        await ask()
    assert caught.value.reason == "LOG_NOT_CONFIGURED"
