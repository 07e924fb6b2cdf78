"""Ports on the loopback interface."""

from __future__ import annotations

import errno
import socket

from lepton_mesh.errors import FailedPrecondition

LOOPBACK = "127.0.0.1"


class PortInUse(FailedPrecondition):
    reason = "STACK_PORT_IN_USE"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def check_free(host: str, port: int) -> None:
    """Makes sure that a port can be listened on.

    Raises:
        PortInUse: It cannot.
    """
    with socket.socket() as probe:
        # As servers do: a connection that lingers after a stop is no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            why = {
                errno.EADDRINUSE: "is in use",
                errno.EACCES: "needs more rights",
            }.get(error.errno or 0, f"cannot be used ({error.strerror})")
            raise PortInUse(
                f"port {port} on {host} {why}; choose another with `lepton up --port PORT` "
                "(0 takes any free one)",
                port=port,
            ) from None
