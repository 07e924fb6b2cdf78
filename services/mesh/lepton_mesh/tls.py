"""TLS for gRPC from an identity that renews itself.

Servers read the newest certificate at each handshake. Clients cannot: a channel keeps the
certificate it was opened with. So what needs a channel for long is given a
:data:`~lepton_mesh.connect.Connect` from :func:`connector`, opens anew when the identity
rotates, and closes the old one when its calls have ended (``BalancedChannel.refresh`` and
``EtcdTransport.refresh`` do)::

    channel = BalancedChannel(directory, "storage", connector(identity, "storage"))
    identity.on_rotate(channel.refresh)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from lepton_mesh.connect import CHANNEL_OPTIONS, Connect
from lepton_mesh.spiffe import dns_name

if TYPE_CHECKING:
    from lepton_mesh.identity import Identity
    from lepton_mesh.pki import Credentials


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Mutual TLS: a client without a certificate of the mesh is refused in the handshake.

    Which client may do what is decided for each call: see :mod:`lepton_mesh.peers`.
    """
    return _dynamic(identity, require_client_certificate=True, with_root=False)


def open_server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """TLS that asks the client for nothing, for auth's join listener.

    The chain it sends includes the root: who joins knows only the root's fingerprint.
    """
    return _dynamic(identity, require_client_certificate=False, with_root=True)


def connector(
    identity: Identity,
    service: str,
    *,
    options: Sequence[tuple[str, Any]] = (),
) -> Connect:
    """Opens channels to instances of ``service``, each with the certificate of its moment."""

    def connect(address: str) -> grpc.aio.Channel:
        return client_channel(address, identity, service, options=options)

    return connect


def client_channel(
    address: str,
    identity: Identity,
    service: str,
    *,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """A channel with the current certificate, to ``host:port``, which must prove to be ``service``.

    Python's gRPC checks DNS names only, whence the DNS name in every certificate; the address
    itself need not be in it.
    """
    return grpc.aio.secure_channel(
        address,
        channel_credentials(identity.credentials),
        options=[
            *CHANNEL_OPTIONS,
            ("grpc.ssl_target_name_override", dns_name(service)),
            *options,
        ],
    )


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.trust_bundle_pem,
        private_key=credentials.private_key_pem,
        certificate_chain=credentials.certificate_chain_pem,
    )


def _dynamic(
    identity: Identity, *, require_client_certificate: bool, with_root: bool
) -> grpc.ServerCredentials:
    def configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
        chain = credentials.certificate_chain_pem
        if with_root:
            chain += credentials.trust_bundle_pem
        return grpc.ssl_server_certificate_configuration(
            [(credentials.private_key_pem, chain)],
            root_certificates=credentials.trust_bundle_pem,
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(identity.credentials),
        # None means "as before" (gRPC's own documentation has it).
        _when_changed(identity, configuration),  # type: ignore[arg-type]  # the stub forgets None
        require_client_authentication=require_client_certificate,
    )


def _when_changed(
    identity: Identity,
    configuration: Callable[[Credentials], grpc.ServerCertificateConfiguration],
) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    """What gRPC calls before each handshake, in a thread of its own; None means "as before"."""
    served = identity.credentials

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        current = identity.credentials
        if current is served:
            return None
        served = current
        return configuration(current)

    return fetch
