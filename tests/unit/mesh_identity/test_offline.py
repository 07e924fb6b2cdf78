"""The auth service's commands on its state directory, and the authority's files."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_auth import offline
from lepton_auth.adapters.argon2_passwords import Argon2Passwords
from lepton_auth.authority_files import AuthorityMissing, ensure_authority, load_authority
from lepton_auth.certificates import require_operator
from lepton_auth.config import AuthSettings
from lepton_auth.errors import OperatorRequired, PasswordLoginRequired
from lepton_auth.records import RefreshToken
from lepton_mesh import credential_files
from lepton_mesh.caller import Caller, Role
from lepton_mesh.join import JoinToken
from lepton_mesh.pki import CertificateAuthority, certificate_pem, fingerprint, key_pem

PRIVATE = 0o600


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEPTON_STATE_DIR", str(tmp_path))
    return tmp_path


def test_init_shows_the_password_once_and_keeps_the_authority(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offline.main(["init"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert offline.main(["init"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert len(first.pop("password")) >= 20
    assert second.pop("password") is None
    assert first == second
    assert first["root_fingerprint"] == fingerprint(load_authority(state_dir).root).hex()
    for key in state_dir.glob("*-ca/key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == PRIVATE
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_join_token_and_issue(
    state_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    offline.main(["init"])
    capsys.readouterr()
    assert offline.main(["join-token", "--service", "storage"]) == 0
    token = JoinToken.decode(capsys.readouterr().out)
    assert token.spiffe_id.service == "storage"
    assert token.root_fingerprint == fingerprint(load_authority(state_dir).root)

    out = tmp_path / "etcd"
    command = ["issue", "--service", "etcd", "--ip", "127.0.0.1", "--out", str(out)]
    assert offline.main([*command, "--ttl-seconds", "60"]) == 0
    credentials = credential_files.load(out)
    assert credentials is not None
    credentials.verify()
    assert credentials.names.ip_addresses == ("127.0.0.1",)
    assert credentials.not_after - datetime.now(UTC) < timedelta(seconds=61)


def test_a_token_may_give_the_gateway_its_public_names(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hosts that users see; its own name in the mesh is in the certificate anyhow."""
    offline.main(["init"])
    capsys.readouterr()
    for name in ("lepton.example.org", "notlepton.internal", "gateway.lepton.internal"):
        assert offline.main(["join-token", "--service", "gateway", "--dns", name]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["join-token", "--service", "supervisor"], "cannot join by token"),
        (["join-token", "--service", "auth"], "cannot join by token"),
        (["join-token", "--service", "storage", "--dns", "example.org"], "no names beyond"),
        (["join-token", "--service", "gateway", "--ip", "localhost"], "malformed"),
        (["join-token", "--service", "gateway", "--dns", "auth.lepton.internal"], "no name that"),
        (["join-token", "--service", "gateway", "--dns", "Auth.Lepton.Internal."], "no name that"),
        (["join-token", "--service", "gateway", "--dns", "lepton.internal"], "no name that"),
        (["join-token", "--service", "gateway", "--dns", "*.lepton.internal"], "no name that"),
        (["join-token", "--service", "gateway", "--dns", "a.gateway.lepton.internal"], "no name"),
        (["join-token", "--service", "gateway", "--dns", "*.internal"], "no name that"),
        (["join-token", "--service", "gateway", "--dns", "*.example.org"], "no name that"),
        (["join-token", "--service", "storage", "--ttl-seconds", "3601"], "1 to 3600"),
        (["issue", "--service", "Etcd", "--out", "x"], "names neither"),
        (["reset-password", "--user", "nobody"], "there is no user 'nobody'"),
        (["disable-user", "--user", "nobody"], "there is no user 'nobody'"),
    ],
)
def test_refused_in_one_line(
    state_dir: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    ensure_authority(state_dir, "lepton.local")
    assert offline.main(command) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


async def test_a_lost_password_is_replaced(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new one is the user's; the old one and the logins that it gave are worth nothing."""
    settings = AuthSettings.load("auth")
    lost = json.loads(await offline.init(settings, argparse.Namespace()))["password"]
    async with offline._open(settings) as opened:
        token = RefreshToken(b"digest", "family", "admin", "default", datetime.now(UTC))
        await opened.store.write(lambda records: records.refresh_tokens.add(token))
    found = await offline.reset_password(settings, argparse.Namespace(user="admin"))
    async with offline._open(settings) as opened:
        user = await opened.store.read(lambda records: records.users.get("admin"))
        kept = await opened.store.read(lambda records: records.refresh_tokens.get(b"digest"))
        events = await opened.store.read(
            lambda records: records.audit.of_workspace("default", None, 1)
        )
    assert user is not None
    passwords = Argon2Passwords(concurrency=1, max_waiting=1)
    assert await passwords.verify(user.password_hash, found)
    assert not await passwords.verify(user.password_hash, lost)
    passwords.close()
    assert kept is None
    assert [event.action for event in events] == ["user.resetPassword"]


def test_a_last_admin_can_be_disabled_by_who_owns_the_machine(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody may through the API, for instance when it has left with a workspace of its own."""
    assert offline.main(["init"]) == 0
    capsys.readouterr()
    assert offline.main(["disable-user", "--user", "admin"]) == 0
    assert capsys.readouterr().out == "users/admin\n"

    async def standing() -> Role | None:
        async with offline._open(AuthSettings.load("auth")) as opened:
            return await opened.store.read(
                lambda records: records.users.standing("admin", "default")
            )

    assert asyncio.run(standing()) is None


def test_without_init_the_remedy_is_named(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offline.main(["join-token", "--service", "storage"]) == 1
    assert "python -m lepton_auth init" in capsys.readouterr().err


def test_an_issuing_ca_near_its_end_is_renewed_where_the_root_key_is(tmp_path: Path) -> None:
    first = ensure_authority(tmp_path, "lepton.local")
    assert ensure_authority(tmp_path, "lepton.local").certificate == first.certificate
    root_pem = (tmp_path / "root-ca/cert.pem").read_bytes()
    root = CertificateAuthority.from_pem(
        (tmp_path / "root-ca/key.pem").read_bytes(), root_pem, root_pem
    )
    ending = root.create_intermediate(timedelta(days=1))
    (tmp_path / "issuing-ca/key.pem").write_bytes(key_pem(ending.key))
    (tmp_path / "issuing-ca/cert.pem").write_bytes(certificate_pem(ending.certificate))

    renewed = ensure_authority(tmp_path, "lepton.local")
    assert renewed.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)
    assert renewed.root == first.root
    assert load_authority(tmp_path).certificate == renewed.certificate


def test_the_meshs_certificates_are_not_a_workspaces(tmp_path: Path) -> None:
    """An admin of one workspace among several could otherwise become the storage service."""
    ada = Caller("user", "users/ada", "default", Role.ADMIN)
    require_operator(ada, by_password=True)
    with pytest.raises(OperatorRequired, match="'default'"):
        require_operator(Caller("user", "users/eve", "vision", Role.ADMIN), by_password=True)
    with pytest.raises(PasswordLoginRequired):
        require_operator(ada, by_password=False)
    require_operator(Caller("service", "services/supervisor", "default"), by_password=False)


@pytest.mark.parametrize("days", [59, 1])
def test_a_valid_authority_stays_while_the_roots_key_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int
) -> None:
    """It cannot be renewed yet, and serves until its end: a warning says when."""
    root = _authority_of(tmp_path, timedelta(days=days))
    (tmp_path / "root-ca" / "key.pem").unlink()
    before = load_authority(tmp_path).certificate
    assert ensure_authority(tmp_path, "lepton.local").certificate == before
    assert "put the root's key back" in caplog.text
    (tmp_path / "root-ca" / "key.pem").write_bytes(key_pem(root.key))
    assert ensure_authority(tmp_path, "lepton.local").certificate != before


def test_an_authority_that_ended_is_not_taken(tmp_path: Path) -> None:
    _authority_of(tmp_path, timedelta(seconds=-1))
    (tmp_path / "root-ca" / "key.pem").unlink()
    with pytest.raises(AuthorityMissing, match="put the root's key back"):
        ensure_authority(tmp_path, "lepton.local")


def test_a_lost_root_is_not_made_anew(tmp_path: Path) -> None:
    """Nobody would trust it; what a crash left of an earlier start goes, a backup stays."""
    ensure_authority(tmp_path, "lepton.local")
    left, backup = tmp_path / "issuing-ca.0123abcd", tmp_path / "root-ca.backup"
    left.mkdir()
    (tmp_path / "root-ca").rename(backup)
    with pytest.raises(AuthorityMissing, match="put it back"):
        ensure_authority(tmp_path, "lepton.local")
    backup.rename(tmp_path / "root-ca")
    shutil.copytree(tmp_path / "root-ca", backup)
    shutil.rmtree(tmp_path / "issuing-ca")
    ensure_authority(tmp_path, "lepton.local")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("issuing-ca", "root-ca", "root-ca.backup")
    ]


def _authority_of(state_dir: Path, life: timedelta) -> CertificateAuthority:
    """Files with an issuing CA of that life; returns the root."""
    root = CertificateAuthority.create_root("lepton.local")
    for name, one in (("root-ca", root), ("issuing-ca", root.create_intermediate(life))):
        (state_dir / name).mkdir()
        (state_dir / name / "key.pem").write_bytes(key_pem(one.key))
        (state_dir / name / "cert.pem").write_bytes(certificate_pem(one.certificate))
    return root
