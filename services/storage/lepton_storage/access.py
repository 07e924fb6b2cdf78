"""Who may call which RPC of the storage service."""

from __future__ import annotations

from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role

_SERVICE = "/lepton.api.storage.v1.StorageService/"

# Bytes go in by people who develop and by jobs, whose own uploads alone they see.
_BRINGS = Rule(min_role=Role.DEVELOPER, jobs=True)
_CHANGES = Rule(min_role=Role.DEVELOPER)
_SEES = Rule(min_role=Role.VIEWER)
_HOLDS = Rule(services=frozenset({"registry"}))

TABLE = AuthorizationTable(
    {
        _SERVICE + method: rule
        for method, rule in {
            "CreateUpload": _BRINGS,
            "GetUpload": _BRINGS,
            "WriteUpload": _BRINGS,
            "DeleteUpload": _BRINGS,
            "CreateDataset": _CHANGES,
            "GetDataset": _SEES,
            "ListDatasets": _SEES,
            "DeleteDataset": _CHANGES,
            "CreateDatasetVersion": _CHANGES,
            "GetDatasetVersion": Rule(
                min_role=Role.VIEWER, jobs=True, services=frozenset({"training"})
            ),
            "ListDatasetVersions": _SEES,
            "ReadDatasetFile": Rule(min_role=Role.VIEWER, jobs=True),
            "CreateArtifact": _BRINGS,
            "GetArtifact": Rule(min_role=Role.VIEWER, jobs=True, services=frozenset({"inference"})),
            "ListArtifacts": _SEES,
            # Of jobs that have a newer checkpoint, or are over.
            "DeleteArtifact": Rule(min_role=Role.DEVELOPER, services=frozenset({"training"})),
            "ReadArtifact": Rule(
                min_role=Role.VIEWER, jobs=True, services=frozenset({"inference"})
            ),
            "HoldArtifacts": _HOLDS,
            "ReleaseArtifacts": _HOLDS,
        }.items()
    }
)
