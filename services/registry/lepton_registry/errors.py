"""What the registry refuses, and why.

NotFound             ModelNotFound, VersionNotFound, AliasNotFound
AlreadyExists        ModelExists
                     RequestIdTaken      the request id belongs to a version of another file
FailedPrecondition   ArtifactMismatch    the file is not in storage, or is another one
                     VersionArchived     an alias must lead to a version that can be deployed
                     VersionAliased      an alias still leads to the version to be archived
                     TooManyAliases      one of them must go before another comes
Aborted              RegistrationExpired the files are no longer held for it
InvalidArgument      InvalidModel, InvalidVersion, InvalidAlias
"""

from __future__ import annotations

from lepton_mesh.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)


class ModelNotFound(NotFound):
    reason = "MODEL_NOT_FOUND"


class VersionNotFound(NotFound):
    reason = "MODEL_VERSION_NOT_FOUND"


class AliasNotFound(NotFound):
    reason = "ALIAS_NOT_FOUND"


class ModelExists(AlreadyExists):
    reason = "MODEL_EXISTS"


class RequestIdTaken(AlreadyExists):
    reason = "MODEL_VERSION_REQUEST_ID_TAKEN"


class ArtifactMismatch(FailedPrecondition):
    reason = "ARTIFACT_MISMATCH"


class VersionArchived(FailedPrecondition):
    reason = "MODEL_VERSION_ARCHIVED"


class VersionAliased(FailedPrecondition):
    reason = "MODEL_VERSION_ALIASED"


class TooManyAliases(FailedPrecondition):
    reason = "TOO_MANY_ALIASES"


class RegistrationExpired(Aborted):
    reason = "REGISTRATION_EXPIRED"


class InvalidModel(InvalidArgument):
    reason = "INVALID_MODEL"


class InvalidVersion(InvalidArgument):
    reason = "INVALID_MODEL_VERSION"


class InvalidAlias(InvalidArgument):
    reason = "INVALID_ALIAS"
