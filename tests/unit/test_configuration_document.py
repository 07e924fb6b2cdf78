"""docs/configuration.md names every setting of every service, with its default."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from lepton_auth.config import AuthSettings
from lepton_gateway.config import GatewaySettings
from lepton_inference.config import InferenceSettings
from lepton_mesh.config import PREFIX, DatabaseSettings, MeshSettings
from lepton_registry.config import RegistrySettings
from lepton_storage.config import StorageSettings
from lepton_training.config import TrainingSettings

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"
_ROW = re.compile(r"\| `(LEPTON_[A-Z_]+)` \| (.*?) \|")
_SECTIONS = {
    "Every service": MeshSettings,
    "Every service but the gateway": DatabaseSettings,
    "Auth": AuthSettings,
    "Storage": StorageSettings,
    "Registry": RegistrySettings,
    "Training": TrainingSettings,
    "Inference": InferenceSettings,
    "Gateway": GatewaySettings,
}


def test_the_document_has_every_setting_and_its_default() -> None:
    sections = re.split(r"^## (.*)\n", DOCUMENT.read_text(), flags=re.MULTILINE)
    written = {
        title: dict(_ROW.findall(text))
        for title, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    for title, settings in _SECTIONS.items():
        told = {
            name
            for base in settings.__mro__[1:]
            if issubclass(base, MeshSettings)
            for name in base.model_fields
        }
        expected = {
            PREFIX + name.upper(): _default(field)
            for name, field in settings.model_fields.items()
            if name not in told
        }
        assert written.pop(title) == expected
    assert not written


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return "" if field.default in (None, "") else f"`{field.default:{_spec(field.default)}}`"


def _spec(value: object) -> str:
    # 10.0 seconds are written as 10.
    return "g" if isinstance(value, float) else ""
