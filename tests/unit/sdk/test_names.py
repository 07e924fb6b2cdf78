from __future__ import annotations

import pytest

from lepton.client import names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mnist", "datasets/mnist/versions/latest"),
        ("mnist/3", "datasets/mnist/versions/3"),
        ("datasets/mnist", "datasets/mnist/versions/latest"),
        ("datasets/mnist/3", "datasets/mnist/versions/3"),
        ("datasets/mnist/versions/3", "datasets/mnist/versions/3"),
    ],
)
def test_dataset_versions(text: str, name: str) -> None:
    assert names.dataset_version_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("digits", "models/digits/versions/latest"),
        ("digits/latest", "models/digits/versions/latest"),
        ("digits/3", "models/digits/versions/3"),
        ("digits/production", "models/digits/aliases/production"),
        ("models/digits", "models/digits/versions/latest"),
        ("models/digits/3", "models/digits/versions/3"),
        ("models/digits/versions/3", "models/digits/versions/3"),
        ("models/digits/aliases/production", "models/digits/aliases/production"),
    ],
)
def test_model_versions(text: str, name: str) -> None:
    assert names.model_version_name(text) == name


@pytest.mark.parametrize(
    ("function", "collection"),
    [
        (names.dataset_name, "datasets"),
        (names.model_name, "models"),
        (names.job_name, "jobs"),
        (names.endpoint_name, "endpoints"),
    ],
)
def test_ids_and_names_are_the_same_thing(function: object, collection: str) -> None:
    assert callable(function)
    assert function("a") == function(f"{collection}/a") == f"{collection}/a"
