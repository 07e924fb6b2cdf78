"""Names of workloads: SPIFFE ids, and the DNS names and common names that go with them.

Source: SPIFFE-ID and X.509-SVID specifications, https://spiffe.io/docs/latest/spiffe-about/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from lepton_mesh.errors import InvalidArgument

_ID = r"[a-z][a-z0-9-]{0,62}"
_SERVICE = re.compile(f"/svc/({_ID})")
_JOB = re.compile(f"/ws/({_ID})/job/({_ID})")
# DNS labels: the trust domain is the authority of every SPIFFE URI (SPIFFE-ID section 2.1).
_TRUST_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?")
_URI = re.compile(r"spiffe://([^/]+)(/.+)")
_DNS_SUFFIX = "lepton.internal"
# etcd takes the common name for the user's name, and its administrator is always `root`.
_COMMON_NAMES = {"supervisor": "root"}


class InvalidSpiffeId(InvalidArgument):
    """Not a name of a workload of this mesh."""

    reason = "SPIFFE_ID_INVALID"


def is_trust_domain(name: str) -> bool:
    """Whether ``name`` may be the trust domain of SPIFFE ids."""
    return _TRUST_DOMAIN.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """``spiffe://<trust domain>/svc/<service>`` or ``…/ws/<workspace>/job/<job>``."""

    trust_domain: str
    path: str
    """With its leading slash."""

    def __post_init__(self) -> None:
        known = _SERVICE.fullmatch(self.path) or _JOB.fullmatch(self.path)
        if not known or not is_trust_domain(self.trust_domain):
            raise InvalidSpiffeId(
                f"'{self}' names neither a service (spiffe://<trust domain>/svc/<service>) "
                "nor a job (spiffe://<trust domain>/ws/<workspace>/job/<job>)"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidSpiffeId for anything else than the two forms above."""
        # Not with urlsplit: it forgives, and drops, characters that have no place here.
        match = _URI.fullmatch(text)
        if match is None:
            raise InvalidSpiffeId(f"{text!r} is not a SPIFFE id")
        return cls(match[1], match[2])

    @classmethod
    def for_service(cls, trust_domain: str, service: str) -> Self:
        return cls(trust_domain, f"/svc/{service}")

    @classmethod
    def for_job(cls, trust_domain: str, workspace: str, job: str) -> Self:
        return cls(trust_domain, f"/ws/{workspace}/job/{job}")

    @property
    def service(self) -> str | None:
        """The service's name; None for a job."""
        match = _SERVICE.fullmatch(self.path)
        return match[1] if match else None

    @property
    def job(self) -> str | None:
        """The job's id; None for a service."""
        match = _JOB.fullmatch(self.path)
        return match[2] if match else None

    @property
    def workspace(self) -> str | None:
        """The job's workspace; None for a service."""
        match = _JOB.fullmatch(self.path)
        return match[1] if match else None

    @property
    def dns_name(self) -> str:
        """The DNS name in its certificate, which TLS clients check."""
        return dns_name(self.service or "job")

    @property
    def common_name(self) -> str:
        """The common name in its certificate: its user in etcd."""
        name = self.service or "job"
        return _COMMON_NAMES.get(name, name)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def is_mesh_name(name: str) -> bool:
    """Whether ``name``, a DNS name or a wildcard, is at or below the mesh's own domain."""
    labels = name.lower().removesuffix(".")
    return labels == _DNS_SUFFIX or labels.endswith(f".{_DNS_SUFFIX}")


def dns_name(service: str) -> str:
    """The DNS name in the certificate of every instance of ``service``."""
    return f"{service}.{_DNS_SUFFIX}"
