"""A Ctrl-C ends what it hits, wherever in gRPC that is."""

from __future__ import annotations

import threading

import pytest
from grpc._cython import cygrpc

from lepton.client import Client
from tests.unit.sdk.fake_gateway import Gateway


def test_an_interrupt_while_a_call_begins(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is on its way, and the thread that would report its end is not there yet."""
    gateway.training.quiet = True

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    ended = threading.Event()

    def use() -> None:
        with pytest.raises(KeyboardInterrupt), Client(gateway.profile) as lepton:
            lepton.jobs.recipes()
            monkeypatch.setattr(cygrpc.ForkManagedThread, "start", interrupted)
            list(lepton.jobs.logs("j1"))
        ended.set()

    threading.Thread(target=use, daemon=True).start()
    assert ended.wait(30)
