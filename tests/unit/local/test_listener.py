"""Where the gateway listens, what users call it, and what its certificate names."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import psutil
import pytest

from lepton_local import ports
from lepton_local.listener import Listener
from lepton_mesh.listening import PortInUse


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


IPV6 = pytest.param(
    "::1", marks=pytest.mark.skipif(not _has_ipv6(), reason="this machine has no ::1")
)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "localhost:5"),
        ("localhost", "localhost:5"),
        ("0.0.0.0", "localhost:5"),
        ("127.0.0.2", "127.0.0.2:5"),
        ("::1", "[::1]:5"),
        ("::", "[::1]:5"),
        ("2001:DB8:0::1", "[2001:db8::1]:5"),
    ],
)
def test_what_users_on_this_machine_call(host: str, address: str) -> None:
    assert Listener.of(host, 5).address == address


@pytest.mark.parametrize(
    ("host", "names", "dns", "ips"),
    [
        ("127.0.0.1", (), ["localhost"], ["127.0.0.1", "::1"]),
        ("192.0.2.7", (), ["localhost"], ["127.0.0.1", "192.0.2.7", "::1"]),
        ("2001:db8::1", (), ["localhost"], ["127.0.0.1", "2001:db8::1", "::1"]),
        (
            "127.0.0.1",
            ("a.example.org", "203.0.113.9", "*.b.example.org"),
            ["*.b.example.org", "a.example.org", "localhost"],
            ["127.0.0.1", "203.0.113.9", "::1"],
        ),
    ],
)
def test_what_the_certificate_names(
    host: str, names: tuple[str, ...], dns: list[str], ips: list[str]
) -> None:
    listener = Listener.of(host, 5, names)
    assert (listener.dns_names(), listener.ip_addresses()) == (dns, ips)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_on_every_address_the_certificate_names_the_machine(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own name and all addresses but those that hold on one interface only."""
    found = [
        SimpleNamespace(family=socket.AF_INET, address="192.0.2.7"),
        SimpleNamespace(family=socket.AF_INET6, address="2001:db8::7"),
        SimpleNamespace(family=socket.AF_INET6, address="fe80::7%eth0"),
        SimpleNamespace(family=socket.AF_PACKET, address="02:fc:00:00:00:01"),
    ]
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": found})
    monkeypatch.setattr(socket, "gethostname", lambda: "tower")
    listener = Listener.of(host, 5)
    assert listener.dns_names() == ["localhost", "tower"]
    assert listener.ip_addresses() == ["127.0.0.1", "192.0.2.7", "2001:db8::7", "::1"]


def test_a_machine_without_a_name_fit_for_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my tower")
    assert Listener.of("::", 5).dns_names() == ["localhost"]


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("", ()),
        ("no such host", ()),
        ("fe80::1%lo", ()),
        ("127.0.0.1", ("a b",)),
        ("127.0.0.1", ("grün.example.org",)),
        ("127.0.0.1", ("https://a.example.org",)),
        ("127.0.0.1", ("",)),
        ("127.0.0.1", ("a" * 64,)),
    ],
)
def test_what_is_no_name_is_refused(host: str, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="is neither a DNS name nor an IP address"):
        Listener.of(host, 5, names)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", IPV6])
def test_a_taken_port_is_seen_where_it_is_taken(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} on {host} is in use"):
            ports.check_free(host, port)
    ports.check_free(host, port)


@pytest.mark.parametrize("host", ["192.0.2.99", "2001:db8::99"])
def test_an_address_of_another_machine(host: str) -> None:
    with pytest.raises(PortInUse, match=f"{host} is no address of this machine.*--host"):
        ports.check_free(host, 0)


def test_every_ipv6_address_leaves_ipv4_alone() -> None:
    """Envoy listens so as well; another listener on IPv4 is none of its business."""
    if not _has_ipv6():
        pytest.skip("this machine has no ::1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports.check_free("::", taken.getsockname()[1])


def test_free_ports_differ() -> None:
    assert len(set(ports.free_ports(*["127.0.0.1"] * 20))) == 20
