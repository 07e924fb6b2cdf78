"""The mesh's certificate authority on disk.

<state_dir>/root-ca/cert.pem     the root that every member trusts: ten years
<state_dir>/root-ca/key.pem      not needed to serve: move it off this machine, and put it
                                 back once a year to renew the issuing CA
<state_dir>/issuing-ca/…         the intermediate that signs; one year
"""

from __future__ import annotations

import logging
import secrets
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from lepton_mesh.credential_files import CERTIFICATE, KEY
from lepton_mesh.durable import create_private, sync_directory
from lepton_mesh.errors import FailedPrecondition
from lepton_mesh.pki import CertificateAuthority, CertificateUntrusted, certificate_pem, key_pem

log = logging.getLogger(__name__)

_ROOT = "root-ca"
_ISSUING = "issuing-ca"
_RENEW_BEFORE = timedelta(days=60)


class AuthorityMissing(FailedPrecondition):
    """There is no usable authority in the state directory."""

    reason = "AUTHORITY_MISSING"


def ensure_authority(state_dir: Path, trust_domain: str) -> CertificateAuthority:
    """Makes what is missing: the root, and an issuing CA that lasts another two months.

    One that ends sooner stays, with a warning, while the root's key is off this machine.

    Raises:
        AuthorityMissing: There is no valid issuing CA, and the root's key is not there to make one;
            or the root was lost, and another would be trusted by nobody.
    """
    root_directory = state_dir / _ROOT
    if not root_directory.exists():
        if (state_dir / _ISSUING).exists():
            raise AuthorityMissing(
                f"{root_directory} is missing beside {state_dir / _ISSUING}: put it back from a "
                "backup, at least its certificate; with another root no member of the mesh and no "
                "client would trust this one"
            )
        _store(root_directory, CertificateAuthority.create_root(trust_domain))
    present: CertificateAuthority | None = None
    try:
        present = load_authority(state_dir)
    except AuthorityMissing:
        pass
    else:
        if present.certificate.not_valid_after_utc - datetime.now(UTC) > _RENEW_BEFORE:
            return present
    try:
        certificate = (root_directory / CERTIFICATE).read_bytes()
        root = CertificateAuthority.from_pem(
            (root_directory / KEY).read_bytes(), certificate, certificate
        )
    except FileNotFoundError as error:
        if present is not None:
            log.warning(
                "issuing CA ends soon: put the root's key back, run init, and take it away again",
                extra={
                    "ends": present.certificate.not_valid_after_utc.isoformat(),
                    "missing": error.filename,
                },
            )
            return present
        raise AuthorityMissing(
            f"the issuing CA must be renewed and {error.filename} is missing; "
            "put the root's key back, run init, and take it away again"
        ) from error
    issuing = root.create_intermediate()
    _store(state_dir / _ISSUING, issuing)
    return issuing


def load_authority(state_dir: Path) -> CertificateAuthority:
    """The issuing CA.

    Raises:
        AuthorityMissing: There is none, or it has ended.
    """
    directory = state_dir / _ISSUING
    try:
        authority = CertificateAuthority.from_pem(
            (directory / KEY).read_bytes(),
            (directory / CERTIFICATE).read_bytes(),
            (state_dir / _ROOT / CERTIFICATE).read_bytes(),
        )
    except (OSError, ValueError, CertificateUntrusted) as error:
        raise AuthorityMissing(
            f"there is no certificate authority in {state_dir} ({error}); "
            "run `python -m lepton_auth init` with the same LEPTON_STATE_DIR"
        ) from error
    end = authority.certificate.not_valid_after_utc
    if end <= datetime.now(UTC):
        raise AuthorityMissing(
            f"the issuing CA in {state_dir} ended at {end}; run `python -m lepton_auth init`"
        )
    return authority


def _store(directory: Path, authority: CertificateAuthority) -> None:
    """Puts key and certificate in place of what ``directory`` held, never one without the other."""
    # What a crash left below names that are ours: it holds a key.
    for left in directory.parent.glob(f"{directory.name}.{'[0-9a-f]' * 8}*"):
        shutil.rmtree(left)
    new = directory.with_name(f"{directory.name}.{secrets.token_hex(4)}")
    new.mkdir(mode=0o700)
    create_private(new / KEY, key_pem(authority.key))
    create_private(new / CERTIFICATE, certificate_pem(authority.certificate))
    old = directory.with_name(f"{new.name}.old")
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(old, ignore_errors=True)
