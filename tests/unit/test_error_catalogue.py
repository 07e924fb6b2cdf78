"""Every reason there is, its status, and what docs/errors.md says of it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import get_args

import lepton_auth
import lepton_gateway
import lepton_inference
import lepton_local
import lepton_mesh
import lepton_registry
import lepton_storage
import lepton_training
from lepton.cli.errors import EXIT_CODES
from lepton.client.errors import ApiError, Reason
from lepton.client.errors import LeptonError as ClientError
from lepton_gateway.envoy.replies import local_replies
from lepton_mesh.errors import LeptonError, catalogue

PACKAGES = (
    lepton_mesh,
    lepton_auth,
    lepton_storage,
    lepton_registry,
    lepton_training,
    lepton_inference,
    lepton_gateway,
    lepton_local,
)
DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
_ROW = re.compile(r"\| `([A-Z_]+)` \| ([A-Z_]+) \| (\d+) \| (yes|no) \| (\S.*) \|")
_OWN_ROW = re.compile(r"\| `([A-Z_]+)` \| [^|]+ \|")
_LOCAL_ROW = re.compile(r"\| `([A-Z_]+)` \| ([12]) \| \S.* \|")


def project_errors() -> dict[str, type[LeptonError]]:
    """Reason -> error, with every module of the project imported; not those that tests define."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            # These run when imported: entry points, and Alembic's environment and versions.
            if not re.search(r"__main__|\.migration", module.name):
                importlib.import_module(module.name)
    return {reason: error for reason, error in catalogue().items() if _ours(error)}


def test_the_document_says_what_the_code_does() -> None:
    """Each reason has one row with its statuses and a remedy; on failure the rows are shown."""
    expected = {
        reason: (error.wire.grpc_name, str(error.wire.http_status), error.wire.retryable)
        for reason, error in project_errors().items()
    }
    rows = _ROW.findall(DOCUMENT.read_text())
    written = {row[0]: (row[1], row[2], row[3] == "yes") for row in rows}
    assert len(written) == len(rows), "a reason has two rows"
    wanted = [
        f"| `{reason}` | {grpc} | {http} | {'yes' if retryable else 'no'} | <what to do> |"
        for reason, (grpc, http, retryable) in sorted(expected.items())
        if written.get(reason) != (grpc, http, retryable)
    ]
    gone = sorted(written.keys() - expected.keys())
    assert not wanted, f"{DOCUMENT.name} lacks:\n" + "\n".join(wanted)
    assert not gone, f"{DOCUMENT.name} has rows for reasons that are gone: {', '.join(gone)}"


def test_the_document_names_what_the_gateway_answers_itself() -> None:
    """A reason in Envoy's own replies is in the catalogue, or in the gateway's section."""
    replies = {
        mapper["body_format_override"]["json_format"]["reason"]
        for mapper in local_replies()["mappers"]
        if "json_format" in mapper["body_format_override"]
    }
    section = DOCUMENT.read_text().partition("## Answered by the gateway itself")[2]
    section = section.partition("\n## ")[0]
    assert set(_OWN_ROW.findall(section)) == replies - project_errors().keys()


def test_the_document_names_what_the_sdk_and_the_command_find_themselves() -> None:
    """Each reason with the exit code of the command; the SDK raises no other."""
    section = DOCUMENT.read_text().partition("## The SDK and the command")[2].partition("\n## ")[0]
    written = {reason: int(code) for reason, code in _LOCAL_ROW.findall(section)}
    assert written == EXIT_CODES
    raised = {
        vars(error)["reason"] for error in ClientError.__subclasses__() if error is not ApiError
    }
    assert raised <= set(get_args(Reason)) <= EXIT_CODES.keys()


def test_reasons_are_upper_snake_and_belong_to_one_error() -> None:
    """Programs switch on them, so none is spelled otherwise or shared."""
    errors = project_errors()
    assert [reason for reason in errors if not re.fullmatch(r"[A-Z]+(_[A-Z0-9]+)*", reason)] == []
    declared = [
        error.reason
        for error in _descendants(LeptonError)
        if "reason" in vars(error) and _ours(error)
    ]
    assert sorted(declared) == sorted(errors)


def _ours(error: type[LeptonError]) -> bool:
    return error.__module__.partition(".")[0] in {package.__name__ for package in PACKAGES}


def _descendants(error: type[LeptonError]) -> set[type[LeptonError]]:
    children = set(error.__subclasses__())
    return children.union(*(_descendants(child) for child in children))
