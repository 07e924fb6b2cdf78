"""Every conversion between the messages of lepton.api.registry.v1 and the domain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton_mesh.resources import Page, masked_fields, parse_name
from lepton_registry.errors import InvalidAlias, InvalidVersion
from lepton_registry.records import (
    MAX_DOCUMENT_BYTES,
    MAX_VERSION_BYTES,
    Lineage,
    Model,
    Signature,
    State,
    Tensor,
    Version,
)
from lepton_registry.registry import Change

MODEL_FIELDS = ("description", "labels")
"""What UpdateModel may change."""
VERSION_FIELDS = ("description", "labels", "state")
"""What UpdateModelVersion may change; all else is fixed."""
_ENCODED = 4
"""How many times as long as its JSON a message may be: a number in a Struct's list takes 11 bytes,
and at least 3 as JSON with its comma and blank."""


def model_change(request: pb.UpdateModelRequest) -> Change:
    fields = masked_fields(request.update_mask, request.model, MODEL_FIELDS)
    return Change(
        description=request.model.description if "description" in fields else None,
        labels=dict(request.model.labels) if "labels" in fields else None,
    )


def version_change(request: pb.UpdateModelVersionRequest) -> Change:
    message = request.model_version
    fields = masked_fields(request.update_mask, message, VERSION_FIELDS)
    return Change(
        description=message.description if "description" in fields else None,
        labels=dict(message.labels) if "labels" in fields else None,
        state=_state(message.state) if "state" in fields else None,
    )


def version(message: pb.ModelVersion) -> Version:
    """A version to register.

    Raises InvalidVersion for numbers that JSON cannot hold, and for what is so large that only
    to convert it would hold up other calls.
    """
    _check_bytes("model_version", message, MAX_VERSION_BYTES)
    return Version(
        artifact=message.artifact,
        sha256=message.sha256,
        signature=Signature(
            inputs=tuple(_tensor(tensor) for tensor in message.signature.inputs),
            outputs=tuple(_tensor(tensor) for tensor in message.signature.outputs),
        ),
        metrics=dict(message.metrics),
        evaluation=_document("evaluation", message.evaluation),
        parity=_document("parity", message.parity),
        lineage=Lineage(
            dataset_version=message.lineage.dataset_version,
            dataset_digest=message.lineage.dataset_digest,
            job=message.lineage.job,
            code_version=message.lineage.code_version,
            recipe=message.lineage.recipe,
            hyperparameters=_document("lineage.hyperparameters", message.lineage.hyperparameters),
            code_artifact=message.lineage.code_artifact,
            code_digest=message.lineage.code_digest,
        ),
        class_names=tuple(message.class_names),
        description=message.description,
        labels=dict(message.labels),
        attachments=dict(message.attachments),
    )


def model_message(model: Model) -> pb.Model:
    return pb.Model(
        name=model.name,
        description=model.description,
        labels=model.labels,
        aliases={
            alias: f"{model.name}/versions/{number}" for alias, number in model.aliases.items()
        },
        latest_version=f"{model.name}/versions/{model.latest}" if model.latest else "",
        creator=model.creator,
        create_time=_timestamp(model.created),
        etag=model.etag,
    )


def version_message(version: Version) -> pb.ModelVersion:
    lineage = version.lineage
    return pb.ModelVersion(
        name=version.name,
        state=pb.ModelVersion.State.Name(int(version.state)),
        artifact=version.artifact,
        sha256=version.sha256,
        size_bytes=version.size_bytes,
        signature=pb.Signature(
            inputs=[_tensor_message(tensor) for tensor in version.signature.inputs],
            outputs=[_tensor_message(tensor) for tensor in version.signature.outputs],
        ),
        metrics=version.metrics,
        evaluation=_struct(version.evaluation),
        parity=_struct(version.parity),
        lineage=pb.Lineage(
            dataset_version=lineage.dataset_version,
            dataset_digest=lineage.dataset_digest,
            job=lineage.job,
            code_version=lineage.code_version,
            recipe=lineage.recipe,
            hyperparameters=_struct(lineage.hyperparameters),
            code_artifact=lineage.code_artifact,
            code_digest=lineage.code_digest,
        ),
        class_names=version.class_names,
        description=version.description,
        labels=version.labels,
        attachments=version.attachments,
        creator=version.creator,
        create_time=_timestamp(version.created),
        etag=version.etag,
    )


def models_page(page: Page, models: Sequence[Model], more: bool) -> pb.ListModelsResponse:
    return pb.ListModelsResponse(
        models=[model_message(model) for model in models],
        next_page_token=page.token(models[-1].id) if more else "",
    )


def versions_page(
    page: Page, versions: Sequence[Version], more: bool
) -> pb.ListModelVersionsResponse:
    return pb.ListModelVersionsResponse(
        model_versions=[version_message(version) for version in versions],
        next_page_token=page.token(versions[-1].number) if more else "",
    )


def number_of(name: str, model_id: str) -> str:
    """The number in a version's name; raises InvalidAlias if it is another model's."""
    of_model, number = parse_name("models/{model}/versions/{version}", name)
    if of_model != model_id:
        raise InvalidAlias(f"'{name}' is not a version of 'models/{model_id}'")
    return number


def _state(value: int) -> State:
    if value not in pb.ModelVersion.State.values():
        raise InvalidVersion(f"{value} is not a state; use READY or ARCHIVED")
    # Not given: READY is meant.
    return State(value or State.READY)


def _tensor(message: pb.TensorSpec) -> Tensor:
    return Tensor(message.name, message.datatype, tuple(message.shape), message.description)


def _tensor_message(tensor: Tensor) -> pb.TensorSpec:
    return pb.TensorSpec(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tensor.shape,
        description=tensor.description,
    )


def _document(field: str, message: Struct) -> dict[str, Any]:
    _check_bytes(field, message, MAX_DOCUMENT_BYTES)
    try:
        return dict(MessageToDict(message))
    except (JsonError, ValueError):
        raise InvalidVersion(f"{field} holds a number that is not finite") from None


def _check_bytes(what: str, message: Message, limit: int) -> None:
    """Raises InvalidVersion for a message whose JSON must have more than ``limit`` bytes."""
    if (size := message.ByteSize()) > _ENCODED * limit:
        raise InvalidVersion(
            f"{what} has {size} bytes; use at most {limit} as JSON, and attach files instead"
        )


def _struct(document: Any) -> Struct | None:
    return ParseDict(document, Struct()) if document else None


def _timestamp(value: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(value)
    return message
