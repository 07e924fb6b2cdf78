"""The authorization tables against the proto's descriptors."""

from __future__ import annotations

from lepton.api.auth.v1 import auth_pb2
from lepton_auth import certificate_servicer, servicer
from lepton_mesh.authorization import check_complete

SERVICES = auth_pb2.DESCRIPTOR.services_by_name


def test_every_rpc_has_a_rule_and_no_other() -> None:
    """On the main port both services; on the join listener the certificates' alone."""
    table = servicer.TABLE | certificate_servicer.TABLE
    check_complete(table, [SERVICES["AuthService"], SERVICES["CertificateService"]])
    check_complete(certificate_servicer.JOIN_TABLE, [SERVICES["CertificateService"]])


def test_what_anyone_may_call() -> None:
    """Logging in and reading public keys, and joining on the join listener; nothing else."""
    table = servicer.TABLE | certificate_servicer.TABLE
    public = {method.rpartition("/")[2] for method, rule in table.items() if rule.public}
    assert public == {"IssueToken", "GetJwks"}
    joining = certificate_servicer.JOIN_TABLE
    assert [method for method, rule in joining.items() if rule.public] == [
        "/lepton.api.auth.v1.CertificateService/Join"
    ]
