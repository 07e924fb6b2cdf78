"""When a server that starts is ready: once what is on record has been loaded.

As with Triton's strict readiness, a load balancer sends nothing before. Unlike there, an endpoint
that fails keeps nobody waiting, and one that does not end does so for a bounded time: the others
are there to be asked.
"""

from __future__ import annotations

import time

from lepton_inference.endpoint import Endpoint
from lepton_inference.serving import Serving, ServingState

FIRST_LOAD_SECONDS = 120.0
"""How long the first loads may keep a server from being ready."""


class FirstLoads:
    """The endpoints that a server which starts has still to load.

    Args:
        serving: What is served.
        seconds: How long they are waited for.
    """

    def __init__(self, serving: Serving, seconds: float = FIRST_LOAD_SECONDS) -> None:
        self._serving = serving
        self._seconds = seconds
        self._awaited: dict[tuple[str, str], Endpoint] = {}
        self._until: float | None = None
        """On time.monotonic(); None while not all of them are known."""

    def expect(self, endpoint: Endpoint) -> None:
        """Waits for an endpoint whose deployment was begun."""
        self._awaited[endpoint.workspace, endpoint.id] = endpoint

    def forget(self, workspace: str, endpoint_id: str) -> None:
        """Waits no more for an endpoint, which was deleted."""
        self._awaited.pop((workspace, endpoint_id), None)

    def known(self) -> None:
        """Says that nothing else is to be expected."""
        self._until = time.monotonic() + self._seconds

    def over(self) -> bool:
        """Whether each is loaded or has failed, or was waited for long enough."""
        if self._until is None:
            return False
        if time.monotonic() >= self._until:
            self._awaited.clear()
        self._awaited = {key: one for key, one in self._awaited.items() if self._loads(one)}
        return not self._awaited

    def _loads(self, endpoint: Endpoint) -> bool:
        endpoints = self._serving.workspace(endpoint.workspace).endpoints
        steps = () if endpoint.ensemble is None else endpoint.ensemble.endpoints
        if any(
            step in endpoints and endpoints[step].state is ServingState.UNAVAILABLE
            for step in steps
        ):
            return False  # it waits for what has failed
        served = endpoints.get(endpoint.id)
        return served is None or served.state is ServingState.LOADING
