"""What `lepton status` shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lepton_local.authority import supervisor_files
from lepton_local.home import SERVICES, Home, StackRecord
from lepton_local.mesh import Seen, etcd_client, look


@dataclass(frozen=True, slots=True)
class Report:
    """A stack at one moment."""

    record: StackRecord
    seen: list[Seen]

    @property
    def healthy(self) -> bool:
        """Whether every service has an instance that serves."""
        serving = {seen.instance.service for seen in self.seen if seen.health == "SERVING"}
        return serving >= set(SERVICES)

    @property
    def state(self) -> str:
        """That of the record, or DEGRADED for a READY stack of which not every service serves."""
        if self.record.state == "READY" and not self.healthy:
            return "DEGRADED"
        return self.record.state

    def plain(self) -> dict[str, Any]:
        """As plain data, for programs."""
        return {
            "state": self.state,
            "gateway": self.record.gateway,
            "seconds_to_ready": self.record.seconds_to_ready,
            "instances": [
                {
                    "service": seen.instance.service,
                    "instance": seen.instance.instance,
                    "health": seen.health,
                    "address": seen.instance.address,
                    "ports": seen.instance.ports,
                    "version": seen.instance.version,
                    "certificate_expires": seen.instance.cert_not_after,
                    "started": seen.instance.started,
                    "restarts": self._restarts(seen.instance.service),
                }
                for seen in self.seen
            ],
        }

    def table(self) -> str:
        """As text, for people."""
        rows = [("SERVICE", "HEALTH", "ADDRESS", "VERSION", "CERTIFICATE", "RESTARTS", "INSTANCE")]
        for seen in self.seen:
            instance = seen.instance
            rows.append(
                (
                    instance.service,
                    seen.health,
                    instance.address,
                    instance.version,
                    _left(instance.cert_not_after),
                    str(self._restarts(instance.service)),
                    instance.instance,
                )
            )
        for service in sorted(set(SERVICES) - {seen.instance.service for seen in self.seen}):
            rows.append((service, "MISSING", "", "", "", str(self._restarts(service)), ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([f"{self.state} at https://{self.record.gateway}", "", *lines])

    def _restarts(self, service: str) -> int:
        process = self.record.processes.get(service)
        return process.restarts if process else 0


async def report(home: Home, record: StackRecord) -> Report:
    """Looks at the stack.

    Raises:
        LeptonError: etcd cannot be reached.
    """
    files = supervisor_files(home)
    async with etcd_client(record.etcd, files) as client:
        return Report(record, await look(client, files))


def _left(moment: str) -> str:
    """Time left until an ISO 8601 moment, such as ``47 min``."""
    if not moment:
        return ""
    minutes = (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds() / 60
    return f"{minutes:.0f} min" if minutes > 0 else "expired"
