"""Ports: some that are free, and whether one is."""

from __future__ import annotations

import contextlib
import errno
import socket

from lepton_mesh.errors import FailedPrecondition

LOOPBACK = "127.0.0.1"


class PortInUse(FailedPrecondition):
    reason = "STACK_PORT_IN_USE"


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
    try:
        probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise _refused(host, port, error) from None
    try:
        # As servers do: a connection that lingers after a stop is no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            # As Envoy does: on `::` it leaves IPv4 alone.
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host, port))
    except OSError as error:
        probe.close()
        raise _refused(host, port, error) from None
    return probe


def _refused(host: str, port: int, error: OSError) -> PortInUse:
    if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        return PortInUse(
            f"{host} is no address of this machine; choose another with `lepton up --host HOST` "
            "(0.0.0.0 takes every IPv4 address, :: every IPv6 one)",
            port=port,
        )
    why = {errno.EADDRINUSE: "is in use", errno.EACCES: "needs more rights"}.get(
        error.errno or 0, f"cannot be used ({error.strerror})"
    )
    return PortInUse(
        f"port {port} on {host} {why}; choose another with `lepton up --port PORT` "
        "(0 takes any free one)",
        port=port,
    )
