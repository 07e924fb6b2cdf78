"""Identities that keep themselves fresh, and their files."""

from __future__ import annotations

import asyncio
import logging
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_mesh import credential_files
from lepton_mesh.config import InvalidConfiguration, MeshSettings
from lepton_mesh.identity import (
    FilesIdentity,
    IdentityMissing,
    Issued,
    WorkloadIdentity,
    obtain_identity,
)
from lepton_mesh.peers import Denylist
from lepton_mesh.pki import (
    CertificateAuthority,
    CertificateUntrusted,
    Credentials,
    Names,
    csr_public_key,
)
from lepton_mesh.spiffe import SpiffeId

STORAGE = SpiffeId.for_service("lepton.local", "storage")


class Authority:
    """Issues, or fails as it is told."""

    def __init__(self, seconds: float, names: SpiffeId = STORAGE) -> None:
        self.ca = CertificateAuthority.create_root("lepton.local").create_intermediate()
        self.ttl = timedelta(seconds=seconds)
        self.names = Names(names)
        self.failure: Exception | None = None

    async def renew(self, csr: bytes) -> Issued:
        if self.failure is not None:
            raise self.failure
        leaf = self.ca.issue(csr_public_key(csr), self.names, self.ttl)
        return Issued(self.ca.chain_pem(leaf), self.ca.trust_bundle_pem)

    def credentials(self, seconds: float = 600) -> Credentials:
        return self.ca.issue_credentials(self.names, timedelta(seconds=seconds))


async def obtain(authority: Authority, directory: Path) -> WorkloadIdentity:
    return await WorkloadIdentity.open(STORAGE, directory, authority=authority.renew)


async def test_renews_itself_again_and_again_before_the_end(tmp_path: Path) -> None:
    authority = Authority(seconds=3)
    identity = await obtain(authority, tmp_path)
    rotations: asyncio.Queue[datetime] = asyncio.Queue()

    async def rotated() -> None:
        rotations.put_nowait(datetime.now(UTC))

    identity.on_rotate(rotated)
    identity.start(authority.renew)
    for _ in range(2):
        end = identity.credentials.not_after
        async with asyncio.timeout(5):
            assert await rotations.get() < end
    assert credential_files.load(tmp_path) == identity.credentials
    await identity.close()


async def test_a_failure_keeps_the_old_certificate_and_raises_the_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(seconds=3)
    identity = await obtain(authority, tmp_path)
    before = identity.credentials
    alarms: asyncio.Queue[Exception] = asyncio.Queue()
    rotated = asyncio.Event()
    identity.on_failure(alarms.put_nowait)
    identity.on_rotate(rotated.set)
    authority.failure = ConnectionError("auth is away")
    with caplog.at_level(logging.ERROR):
        identity.start(authority.renew)
        async with asyncio.timeout(10):
            assert await alarms.get() is authority.failure
            assert identity.credentials is before
            authority.failure = None
            await rotated.wait()
    assert "certificate not renewed" in caplog.text
    assert identity.credentials.not_after > before.not_after
    await identity.close()


@pytest.mark.parametrize("wrong", ["name", "key"])
async def test_an_answer_that_is_not_ours_is_not_taken(tmp_path: Path, wrong: str) -> None:
    authority = Authority(seconds=600)
    identity = await obtain(authority, tmp_path)
    before = identity.credentials
    if wrong == "name":
        authority.names = Names(SpiffeId.for_service("lepton.local", "registry"))
    else:
        other = authority.credentials()

        async def renew(csr: bytes) -> Issued:
            return Issued(other.certificate_chain_pem, other.trust_bundle_pem)

        authority.renew = renew
    with pytest.raises(CertificateUntrusted):
        await identity.renew(authority.renew)
    assert identity.credentials is before
    assert credential_files.load(tmp_path) == before


async def test_a_failing_callback_does_not_stop_the_others(tmp_path: Path) -> None:
    authority = Authority(seconds=600)
    identity = await obtain(authority, tmp_path)
    called = asyncio.Event()
    identity.on_rotate(lambda: 1 / 0)
    identity.on_rotate(called.set)
    await identity.renew(authority.renew)
    assert called.is_set()


@pytest.mark.parametrize("damage", ["ended", "other service", "other key", "half"])
async def test_files_that_do_not_hold_are_not_used(tmp_path: Path, damage: str) -> None:
    authority = Authority(seconds=600)
    good = authority.credentials()
    bad = {
        "ended": authority.credentials(seconds=-1),
        "other service": authority.ca.issue_credentials(
            Names(SpiffeId.for_service("lepton.local", "registry"))
        ),
        "other key": Credentials(
            authority.credentials().private_key_pem,
            good.certificate_chain_pem,
            good.trust_bundle_pem,
        ),
        "half": Credentials(good.private_key_pem, b"", good.trust_bundle_pem),
    }[damage]
    credential_files.save(tmp_path, bad)
    with pytest.raises(IdentityMissing, match="LEPTON_JOIN_ADDRESS"):
        await WorkloadIdentity.open(STORAGE, tmp_path)


def test_files_change_together_and_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "identity"
    authority = Authority(seconds=600)
    for _ in range(3):
        credentials = authority.credentials()
        credential_files.save(directory, credentials)
        assert credential_files.load(directory) == credentials
    generations = [path for path in directory.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(generations) == 1
    assert stat.S_IMODE(generations[0].stat().st_mode) == 0o700
    for path in generations[0].iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_files_of_before_are_replaced_by_links(tmp_path: Path) -> None:
    authority = Authority(seconds=600)
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).write_text("old")
    credentials = authority.credentials()
    credential_files.save(tmp_path, credentials)
    assert (tmp_path / "key.pem").read_bytes() == credentials.private_key_pem


async def test_another_authoritys_files_are_followed(tmp_path: Path) -> None:
    authority = Authority(seconds=600)
    first, second = authority.credentials(), authority.credentials()
    write(tmp_path, first)
    settings = MeshSettings(state_dir=tmp_path, identity_dir=tmp_path)
    identity = await obtain_identity(settings, "storage")
    assert isinstance(identity, FilesIdentity)
    rotated = asyncio.Event()
    identity.on_rotate(rotated.set)

    (tmp_path / "key.pem").write_bytes(second.private_key_pem)  # halfway
    with pytest.raises(CertificateUntrusted, match="private key"):
        await identity.reload()
    assert identity.credentials == first

    write(tmp_path, second)
    await identity.reload()
    assert rotated.is_set()
    assert identity.credentials == second


async def test_another_authoritys_files_must_be_there_and_for_this_service(
    tmp_path: Path,
) -> None:
    settings = MeshSettings(state_dir=tmp_path, identity_dir=tmp_path)
    with pytest.raises(InvalidConfiguration, match=r"LEPTON_IDENTITY_DIR: .* lacks cert.pem"):
        await obtain_identity(settings, "storage")
    write(tmp_path, Authority(seconds=600).credentials())
    with pytest.raises(InvalidConfiguration, match=r"not for spiffe://lepton\.local/svc/registry"):
        await obtain_identity(settings, "registry")


def write(directory: Path, credentials: Credentials) -> None:
    (directory / "cert.pem").write_bytes(credentials.certificate_chain_pem)
    (directory / "key.pem").write_bytes(credentials.private_key_pem)
    (directory / "ca.pem").write_bytes(credentials.trust_bundle_pem)


async def test_a_denylist_that_cannot_be_fetched_stays_as_it_was() -> None:
    async def away() -> list[str]:
        raise ConnectionError

    denylist = Denylist(away)
    denylist.replace(["1f"])
    await denylist.refresh()
    assert "1f" in denylist
