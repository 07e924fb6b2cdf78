"""Ports: some that are free, and whether one is."""

from __future__ import annotations

import contextlib
import socket

from lepton_mesh import listening

LOOPBACK = "127.0.0.1"


def free_ports(*hosts: str) -> list[int]:
    """For each IP address a port that nobody listens on there now; all different at one address.

    Raises:
        PortInUse: An address is not this machine's.
    """
    with contextlib.ExitStack() as held:
        return [held.enter_context(_bound(host, 0)).getsockname()[1] for host in hosts]


def check_free(host: str, port: int) -> None:
    """Makes sure that a port can be listened on at an IP address.

    Raises:
        PortInUse: It cannot.
    """
    _bound(host, port).close()


def _bound(host: str, port: int) -> socket.socket:
    return listening.bound(
        host,
        port,
        other_host="`lepton up --host HOST` (0.0.0.0 takes every IPv4 address, :: every IPv6 one)",
        other_port="`lepton up --port PORT` (0 takes any free one)",
    )
