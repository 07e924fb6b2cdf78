"""Whether a port can be listened on, asked before the process that is to listen is started."""

from __future__ import annotations

import errno
import socket

from lepton_mesh.errors import FailedPrecondition


class PortInUse(FailedPrecondition):
    reason = "PORT_IN_USE"


def bound(host: str, port: int, *, other_host: str, other_port: str) -> socket.socket:
    """A socket bound as Envoy's are: to be closed by the caller, who may hold the port with it.

    Envoy shares a port silently with another process of the same user that lets it
    (SO_REUSEPORT), so it is asked for here, without.

    Args:
        host: An IP address.
        port: 0 chooses one that is free.
        other_host: How the user names another address, for the error: a setting or an option.
        other_port: The same for the port.

    Raises:
        PortInUse: Somebody listens there, it needs more rights, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        probe = socket.socket(family)
    except OSError as error:
        raise _refused(host, port, error, other_host, other_port) from None
    try:
        # As servers do: a connection that lingers after a stop is no listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As Envoy does: on `::` it leaves IPv4 alone.
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host, port))
    except OSError as error:
        probe.close()
        raise _refused(host, port, error, other_host, other_port) from None
    return probe


def _refused(host: str, port: int, error: OSError, other_host: str, other_port: str) -> PortInUse:
    if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        return PortInUse(
            f"{host} is no address of this machine; choose another with {other_host}", port=port
        )
    why = {errno.EADDRINUSE: "is in use", errno.EACCES: "needs more rights"}.get(
        error.errno or 0, f"cannot be used ({error.strerror})"
    )
    return PortInUse(f"port {port} on {host} {why}; choose another with {other_port}", port=port)
