"""The registry: models and their versions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.api.registry.v1 import registry_pb2 as pb
from lepton.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lepton.api.storage.v1 import storage_pb2
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton.client import transfer
from lepton.client.errors import EvaluationError, NotFoundError, translated, unless_it_exists
from lepton.client.names import model_name, model_version_name
from lepton.client.onnx_file import signature_of
from lepton.client.pages import items
from lepton.client.specs import plain_struct

if TYPE_CHECKING:
    from lepton.evaluation import Comparison, Predictions

_PAPERS = "training.json"
_EXPLAINED = {"row", "predicted", "truth", "output", "baseline", "parts", "pixels"}


class ModelClient:
    """Reads the registry, and what is kept beside a version. Every method raises
    :class:`lepton.client.ApiError`."""

    def __init__(self, stub: RegistryServiceStub, storage: StorageServiceStub) -> None:
        self._stub = stub
        self._storage = storage

    def list(self) -> Iterator[pb.Model]:
        """Yields every model of the workspace, in order of name."""
        return items(
            lambda token: self._stub.ListModels(pb.ListModelsRequest(page_token=token), timeout=30),
            lambda page: page.models,
        )

    def get(self, model: str) -> pb.Model:
        """Returns a model by id or resource name."""
        with translated():
            return self._stub.GetModel(pb.GetModelRequest(name=model_name(model)), timeout=30)

    def versions(self, model: str) -> Iterator[pb.ModelVersion]:
        """Yields the versions of a model, newest first, without evaluation and parity."""
        return items(
            lambda token: self._stub.ListModelVersions(
                pb.ListModelVersionsRequest(parent=model_name(model), page_token=token), timeout=30
            ),
            lambda page: page.model_versions,
        )

    def version(self, name: str) -> pb.ModelVersion:
        """Returns a version: ``m/3``, ``m/production`` or a full resource name."""
        with translated():
            return self._stub.GetModelVersion(
                pb.GetModelVersionRequest(name=model_version_name(name)), timeout=30
            )

    def push(
        self,
        model: str,
        path: Path,
        *,
        description: str = "",
        progress: transfer.Progress | None = None,
    ) -> pb.ModelVersion:
        """Registers an ONNX file as the next version; the model is made when missing.

        Args:
            model: Its id.
            path: Of one file, with its weights inside.
            description: Of the version.
            progress: Called with the bytes that are sent.

        Raises:
            ModelFileError: It is no ONNX model, or one that cannot be served.
            TransferError: The file changes meanwhile.
        """
        name = model_name(model)
        signature = signature_of(path)
        try:
            self.get(name)
        except NotFoundError:
            new = pb.CreateModelRequest(model_id=name.removeprefix("models/"))
            unless_it_exists(lambda: self._stub.CreateModel(new, timeout=30))
        upload = transfer.upload_file(self._storage, path, progress=progress)
        artifact = storage_pb2.Artifact(
            sha256=upload.sha256, media_type="application/onnx", filename=path.name
        )
        with translated():
            made = self._storage.CreateArtifact(
                storage_pb2.CreateArtifactRequest(artifact=artifact), timeout=60
            )
            version = pb.ModelVersion(
                artifact=made.name,
                sha256=made.sha256,
                size_bytes=made.size_bytes,
                signature=signature,
                description=description,
            )
            return self._stub.CreateModelVersion(
                pb.CreateModelVersionRequest(parent=name, model_version=version), timeout=60
            )

    def set_alias(self, model: str, alias: str, version: str) -> pb.Model:
        """Points an alias at a version, or moves it."""
        with translated():
            return self._stub.SetAlias(
                pb.SetAliasRequest(
                    model=model_name(model), alias=alias, version=model_version_name(version)
                ),
                timeout=30,
            )

    def delete_alias(self, model: str, alias: str) -> pb.Model:
        """Removes an alias."""
        with translated():
            return self._stub.DeleteAlias(
                pb.DeleteAliasRequest(model=model_name(model), alias=alias), timeout=30
            )

    def delete(self, model: str) -> None:
        """Deletes a model with its versions and aliases."""
        with translated():
            self._stub.DeleteModel(pb.DeleteModelRequest(name=model_name(model)), timeout=60)

    def fetch(self, version: pb.ModelVersion, attachment: str, target: Path) -> None:
        """Writes one of a version's attachments, such as ``roc.png``, to ``target``.

        Raises:
            EvaluationError: It has no such attachment.
            TransferError: The file cannot be written, or is not what was stored.
        """
        if attachment not in version.attachments:
            has = ", ".join(sorted(version.attachments)) or "none"
            raise EvaluationError(f"{version.name} has no {attachment}; its attachments: {has}")
        with translated():
            artifact = self._storage.GetArtifact(
                storage_pb2.GetArtifactRequest(name=version.attachments[attachment]), timeout=30
            )
        transfer.download_artifact(self._storage, artifact, target)

    def evaluation(self, version: pb.ModelVersion) -> dict[str, Any]:
        """The whole evaluation of a version, as :meth:`version` returned it.

        Raises:
            EvaluationError: It has none, or it is not readable.
        """
        found = plain_struct(version.evaluation)
        if not found:
            raise EvaluationError(
                f"{version.name} has no evaluation: only models that a job trained have one"
            )
        if not found.get("left_out"):
            return found
        return self._document(version, "evaluation.json")

    def explanations(self, version: pb.ModelVersion) -> Sequence[dict[str, Any]]:
        """Why a version answered as it did, of some rows of its test split: with ``row``,
        ``predicted``, ``truth``, ``output``, ``baseline`` and ``parts`` (or ``pixels``) each.

        Raises:
            EvaluationError: It has none, or they are not readable.
        """
        rows = self._document(version, "explanations.json").get("rows")
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and row.keys() >= _EXPLAINED for row in rows
        ):
            raise EvaluationError(
                f"explanations.json of {version.name} lacks what explains its rows"
            )
        return rows

    def papers(self, version: pb.ModelVersion) -> dict[str, Any]:
        """What a later job or an explanation begins with, of a version that a job trained by a
        recipe: with ``columns`` and the ``baseline`` that rows are compared with. Empty of others.

        Raises:
            EvaluationError: They are not readable.
        """
        return self._document(version, _PAPERS) if _PAPERS in version.attachments else {}

    def predictions(self, version: pb.ModelVersion) -> Predictions:
        """What a version said of the rows of its test split.

        Raises:
            EvaluationError: They were not kept, or are not readable.
        """
        from lepton.evaluation import predictions  # noqa: PLC0415  numpy takes 0.1 s to import

        try:
            return predictions.Predictions.read(self._content(version, predictions.FILE))
        except predictions.PredictionsUnreadable as error:
            raise EvaluationError(f"{predictions.FILE} of {version.name}: {error}") from None

    def compare(
        self,
        first: pb.ModelVersion,
        second: pb.ModelVersion,
        *,
        confidence: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> Comparison:
        """Tests whether one version is better than the other on the rows of their test split.

        Raises:
            EvaluationError: They were not asked about the same rows, or nothing was kept.
        """
        from lepton.evaluation import NotComparable, compare  # noqa: PLC0415  as above

        digests = [_test_digest(version) for version in (first, second)]
        if all(digests) and digests[0] != digests[1]:
            raise _not_comparable(first, second, "their test splits differ")
        try:
            return compare(
                self.predictions(first),
                self.predictions(second),
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
        except NotComparable as error:
            raise _not_comparable(first, second, str(error)) from None

    def _document(self, version: pb.ModelVersion, attachment: str) -> dict[str, Any]:
        try:
            found = json.loads(self._content(version, attachment))
        except (ValueError, RecursionError):
            raise EvaluationError(
                f"{attachment} of {version.name} is damaged (it is not JSON)"
            ) from None
        if not isinstance(found, dict):
            raise EvaluationError(f"{attachment} of {version.name} is damaged (it is no object)")
        return found

    def _content(self, version: pb.ModelVersion, attachment: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / attachment
            self.fetch(version, attachment, target)
            return target.read_bytes()


def _test_digest(version: pb.ModelVersion) -> str:
    test_set = plain_struct(version.evaluation).get("test_set")
    return str(test_set.get("digest", "")) if isinstance(test_set, dict) else ""


def _not_comparable(first: pb.ModelVersion, second: pb.ModelVersion, why: str) -> EvaluationError:
    return EvaluationError(
        f"{first.name} and {second.name} cannot be compared: {why}. Train both on "
        "the same test rows: name the test file in data.test, or give both one seed"
    )
