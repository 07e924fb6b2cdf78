"""The files in the documents work as they stand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lepton.client import endpoint_from_mapping
from lepton_inference.composition import check_served
from lepton_inference.convert import wanted_of
from lepton_inference.endpoint import ModelVersion, Shadow, Target
from tests.unit.inference.test_ensemble import endpoint

_ROOT = Path(__file__).parents[3]
_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
FILES = [
    pytest.param(block, id=f"{path}-{number}")
    for path in ("README.md", "docs/endpoints.md")
    for number, block in enumerate(_BLOCK.findall((_ROOT / path).read_text()))
    if "targets:" in block or "ensemble:" in block
]


@pytest.mark.parametrize("block", FILES)
def test_an_endpoint_in_a_document_could_be_made(block: str) -> None:
    """As far as it can be told without models."""
    wanted = wanted_of(endpoint_from_mapping(yaml.safe_load(block)))
    shadow = wanted.shadow
    check_served(
        replace(
            endpoint("e"),
            targets=tuple(
                Target(name, weight, ModelVersion(name, "artifacts/a", "5" * 64))
                for name, weight in wanted.targets
            ),
            shadow=shadow
            and Shadow(
                shadow.version,
                shadow.percent,
                shadow.tolerance,
                ModelVersion(shadow.version, "artifacts/a", "6" * 64),
            ),
            ensemble=wanted.ensemble,
            settings=wanted.settings,
        )
    )


def test_the_documents_have_such_files() -> None:
    assert len(FILES) >= 4
