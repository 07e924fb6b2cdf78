"""What keeps a local stack from what a command asks of it.

LeptonError
├── FailedPrecondition
│   ├── StackBusy           another start, or another stack, holds the home
│   ├── StackMissing        there never was one
│   ├── StackDown           it does not run
│   ├── StackUnhealthy      it runs, and not all of it serves
│   ├── RecordUnreadable    the record of what runs is damaged
│   ├── HomeUnwritable      its directory cannot be made or written
│   ├── EtcdMissing
│   ├── EnvoyMissing
│   ├── ProgramUnusable     etcd or Envoy is there, and cannot be run
│   ├── RequirementMissing  what `lepton doctor` found
│   ├── StartFailed
│   └── PortInUse           the mesh's
├── ResourceExhausted
│   └── DiskFull            the mesh's
└── Internal
    └── StopFailed          a process of it does not end
"""

from __future__ import annotations

from lepton_mesh.errors import FailedPrecondition, Internal


class StackBusy(FailedPrecondition):
    reason = "STACK_BUSY"


class StackMissing(FailedPrecondition):
    reason = "STACK_MISSING"


class StackDown(FailedPrecondition):
    reason = "STACK_DOWN"


class StackUnhealthy(FailedPrecondition):
    reason = "STACK_UNHEALTHY"


class RecordUnreadable(FailedPrecondition):
    reason = "STACK_RECORD_UNREADABLE"


class HomeUnwritable(FailedPrecondition):
    reason = "STACK_HOME_UNWRITABLE"


class EtcdMissing(FailedPrecondition):
    reason = "ETCD_MISSING"


class EnvoyMissing(FailedPrecondition):
    reason = "ENVOY_MISSING"


class ProgramUnusable(FailedPrecondition):
    reason = "PROGRAM_UNUSABLE"


class RequirementMissing(FailedPrecondition):
    reason = "REQUIREMENT_MISSING"


class StartFailed(FailedPrecondition):
    reason = "STACK_START_FAILED"


class StopFailed(Internal):
    reason = "STACK_STOP_FAILED"
