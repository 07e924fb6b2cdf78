"""Where users' connections are accepted, and by which names the gateway's certificate goes."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_LOOPBACKS = ("127.0.0.1", "::1")
_LABEL = "[a-z0-9_][a-z0-9_-]{0,62}"
_DNS_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listener:
    """An address of the gateway's, and what else users may call it by."""

    host: str
    """An IP address of this machine, or ``0.0.0.0`` or ``::`` for every one of its kind."""
    port: int
    """0 stands for a free one."""
    names: tuple[str, ...] = ()
    """Further DNS names and IP addresses."""

    @classmethod
    def of(cls, host: str, port: int, names: Sequence[str] = ()) -> Listener:
        """From what people type. A ``host`` with a name is resolved, and called by it as well.

        Raises:
            ValueError: It cannot be resolved, or a name is none; the message says so.
        """
        for name in (host, *names):
            if not _is_address(name) and not _DNS_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is neither a DNS name nor an IP address")
        if _is_address(host):
            return cls(str(ipaddress.ip_address(host)), port, tuple(names))
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ValueError(f"{host!r} is no address of this machine") from None
        addresses = sorted((str(each[4][0]) for each in found), key=lambda each: ":" in each)
        return cls(addresses[0], port, (host, *names))

    @property
    def address(self) -> str:
        """``host:port`` that users on this machine call."""
        # By name where that is sure to lead here; not every machine calls ::1 localhost.
        host = {"127.0.0.1": "localhost", "0.0.0.0": "localhost", "::": "::1"}.get(  # noqa: S104  # compared, not bound
            self.host, self.host
        )
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def dns_names(self) -> list[str]:
        """DNS names for the certificate; the machine's own among them when all may call."""
        names = {"localhost", *(name for name in self.names if not _is_address(name))}
        if self._is_wildcard and _DNS_NAME.fullmatch(socket.gethostname()):
            names.add(socket.gethostname())
        return sorted(names)

    def ip_addresses(self) -> list[str]:
        """IP addresses for the certificate; those that the machine has now when all may call."""
        given = {str(ipaddress.ip_address(name)) for name in self.names if _is_address(name)}
        own = _machine_addresses() if self._is_wildcard else {self.host}
        return sorted({*_LOOPBACKS, *given, *own})

    @property
    def _is_wildcard(self) -> bool:
        return ipaddress.ip_address(self.host).is_unspecified


def _machine_addresses() -> set[str]:
    return {
        str(ipaddress.ip_address(one.address))
        for interface in psutil.net_if_addrs().values()
        for one in interface
        if one.family in {socket.AF_INET, socket.AF_INET6} and _is_address(one.address)
    }


def _is_address(text: str) -> bool:
    """Whether it is an IP address; one that holds on one interface only (``%eth0``) is none."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
