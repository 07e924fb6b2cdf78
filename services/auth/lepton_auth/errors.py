"""What the auth service refuses, and why.

Unauthenticated      CredentialInvalid       name, password, key or refresh token: not said which;
                                             or the user was disabled since
                     JoinTokenInvalid        used, expired or not known
PermissionDenied     WorkspaceDenied         no role in the workspace asked for
                     NotYourself             another user's record, and the caller is no admin
                     UserShared              the user also belongs where the caller is no admin
                     PasswordLoginRequired   an API key may not make or change credentials or roles
                     OperatorRequired        the mesh's certificates belong to the first workspace
                     CertificateRevoked      it was to be renewed
                     RenewalEnded            of a job whose token has run out
                     RoleAboveOwn            a key with more rights than its maker
NotFound             UserNotFound, ApiKeyNotFound
AlreadyExists        UserExists, WorkspaceExists
FailedPrecondition   LastAdmin               the workspace would be left without an admin
                     WorkspaceRequired       the user has several and named none
ResourceExhausted    TooManyFailures         wrong credentials in a row for one name
                     LoginBusy               more logins waiting than can be checked soon
InvalidArgument      InvalidUser, InvalidApiKey, InvalidRole, InvalidCredential, InvalidLifetime,
                         InvalidSerial
                         ServiceNotJoinable      no join token for this service, or with these names
                         NameReserved            a wildcard, or another service's name in the mesh
"""

from __future__ import annotations

from lepton_mesh.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)


class CredentialInvalid(Unauthenticated):
    reason = "CREDENTIAL_INVALID"

    def __init__(self) -> None:
        super().__init__("the credential does not hold; check it, or log in again")


class WorkspaceDenied(PermissionDenied):
    reason = "WORKSPACE_DENIED"


class NotYourself(PermissionDenied):
    reason = "NOT_YOURSELF"


class UserShared(PermissionDenied):
    reason = "USER_SHARED"


class PasswordLoginRequired(PermissionDenied):
    reason = "PASSWORD_LOGIN_REQUIRED"


class RoleAboveOwn(PermissionDenied):
    reason = "ROLE_ABOVE_OWN"


class UserNotFound(NotFound):
    reason = "USER_NOT_FOUND"


class ApiKeyNotFound(NotFound):
    reason = "API_KEY_NOT_FOUND"


class UserExists(AlreadyExists):
    reason = "USER_EXISTS"


class WorkspaceExists(AlreadyExists):
    reason = "WORKSPACE_EXISTS"


class LastAdmin(FailedPrecondition):
    reason = "LAST_ADMIN"


class WorkspaceRequired(FailedPrecondition):
    reason = "WORKSPACE_REQUIRED"


class TooManyFailures(ResourceExhausted):
    reason = "TOO_MANY_FAILURES"


class LoginBusy(ResourceExhausted):
    reason = "LOGIN_BUSY"


class InvalidUser(InvalidArgument):
    reason = "INVALID_USER"


class InvalidApiKey(InvalidArgument):
    reason = "INVALID_API_KEY"


class InvalidRole(InvalidArgument):
    reason = "INVALID_ROLE"


class InvalidCredential(InvalidArgument):
    """The request carries no credential at all, or one that cannot be one."""

    reason = "INVALID_CREDENTIAL"


class InvalidLifetime(InvalidArgument):
    reason = "INVALID_LIFETIME"


class JoinTokenInvalid(Unauthenticated):
    reason = "JOIN_TOKEN_INVALID"


class OperatorRequired(PermissionDenied):
    reason = "OPERATOR_REQUIRED"


class CertificateRevoked(PermissionDenied):
    reason = "CERTIFICATE_REVOKED"


class RenewalEnded(PermissionDenied):
    reason = "CERTIFICATE_RENEWAL_ENDED"


class InvalidSerial(InvalidArgument):
    reason = "INVALID_SERIAL"


class ServiceNotJoinable(InvalidArgument):
    reason = "SERVICE_NOT_JOINABLE"


class NameReserved(InvalidArgument):
    reason = "DNS_NAME_RESERVED"
