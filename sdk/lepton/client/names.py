"""Resource names from what people type: ``mnist`` is ``datasets/mnist`` for a dataset."""

from __future__ import annotations


def dataset_name(text: str) -> str:
    """``mnist`` or ``datasets/mnist``."""
    return _collection("datasets", text)


def dataset_version_name(text: str) -> str:
    """``mnist`` (its latest), ``mnist/3`` or ``datasets/mnist/versions/3``."""
    dataset, _, version = text.removeprefix("datasets/").partition("/")
    return f"datasets/{dataset}/versions/{version.removeprefix('versions/') or 'latest'}"


def model_name(text: str) -> str:
    """``digits`` or ``models/digits``."""
    return _collection("models", text)


def model_version_name(text: str) -> str:
    """``digits`` (its latest), ``digits/3``, ``digits/production`` or a full name."""
    model, _, version = text.removeprefix("models/").partition("/")
    if version.startswith(("versions/", "aliases/")):
        return f"models/{model}/{version}"
    if not version or version == "latest" or version.isdecimal():
        return f"models/{model}/versions/{version or 'latest'}"
    return f"models/{model}/aliases/{version}"


def job_name(text: str) -> str:
    """``j1`` or ``jobs/j1``."""
    return _collection("jobs", text)


def endpoint_name(text: str) -> str:
    """``digits`` or ``endpoints/digits``."""
    return _collection("endpoints", text)


def _collection(collection: str, text: str) -> str:
    return text if text.startswith(f"{collection}/") else f"{collection}/{text}"
