"""Server-sent events without a server: what a client that is slow, gone or too late finds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lepton_inference.asgi import Application
from tests.unit.inference.test_asgi import Exchange, Held, OpenGate, RestExchange
from tests.unit.inference.test_streams import Server


class Events(Exchange):
    """A client that asks ``fibonacci`` to generate, and may stop reading."""

    path = "/v2/models/fibonacci/generate_stream"
    headers = ((b"content-type", b"application/json"),)

    def __init__(self, **more: Any) -> None:
        whole = {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
        super().__init__(json.dumps({"x": 1, **whole, **more}).encode())
        self.reads = asyncio.Event()
        self.reads.set()

    async def send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        await super().send(message)

    def events(self) -> list[dict[str, Any]]:
        body = b"".join(message.get("body", b"") for message in self.sent)
        return [json.loads(event[6:]) for event in body.split(b"\n\n")[:-1]]


class World:
    """The application over the models of ``test_streams``."""

    def __init__(self, server: Server) -> None:
        self.server = server
        gate = OpenGate(server.protocol.serving)
        self.application = Application(server.protocol, gate, 1 << 20)

    def serve(self, exchange: Exchange) -> asyncio.Task[None]:
        return asyncio.create_task(
            self.application(exchange.scope(), exchange.receive, exchange.send)
        )

    @property
    def steps(self) -> int:
        return self.server.models["fibonacci"].statistics.executions


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    server = Server(tmp_path)
    yield World(server)
    await server.close()


async def test_each_step_is_an_event(world: World) -> None:
    """Of one response, which ends with the last."""
    client = Events(max_steps=5, id="r1")
    await world.serve(client)
    start, *_, end = client.sent
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert not end.get("more_body")
    names = {"model_name": "fibonacci", "model_version": "1", "id": "r1"}
    assert client.events() == [names | {"y": y} for y in (1, 2, 3, 5, 8)]


async def test_an_empty_last_event_comes_where_it_is_wanted(world: World) -> None:
    """As on ModelStreamInfer."""
    client = Events(max_steps=1, triton_enable_empty_final_response=True)
    await world.serve(client)
    assert client.events()[1] == {"model_name": "fibonacci", "model_version": "1"}


async def test_who_does_not_read_stops_the_model(world: World) -> None:
    """One step ahead of the client, and no more; it goes on when the client does."""
    client = Events(max_steps=20)
    client.reads.clear()
    serving = world.serve(client)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert world.steps == 1
    client.reads.set()
    await serving
    assert len(client.events()) == world.steps == 20


async def test_a_client_that_is_gone_stops_the_model(world: World) -> None:
    """At the next event, which cannot be sent; nothing of its sequence is left."""
    client = Events(max_steps=20)
    client.reads.clear()
    serving = world.serve(client)
    async with asyncio.timeout(10):
        # Nobody tells that the first step has run.
        while not world.steps:
            await asyncio.sleep(0)
    client.gone = True
    client.reads.set()
    await asyncio.wait_for(serving, 5)
    assert world.steps == 1
    assert client.sent == []
    assert world.server.live("fibonacci") == 0


async def test_a_failure_before_the_first_event_has_its_status(world: World) -> None:
    """And is JSON, as any other."""
    client = Events(max_steps=5000)
    await world.serve(client)
    assert client.sent[0]["status"] == 400
    assert json.loads(client.sent[1]["body"])["reason"] == "PARAMETER_INVALID"
    single = Events()
    single.path = "/v2/models/fibonacci/generate"
    await world.serve(single)
    assert single.sent[0]["status"] == 501
    assert "generate_stream" in json.loads(single.sent[1]["body"])["error"]


async def test_a_failure_after_it_is_the_last_event(world: World) -> None:
    """The status was said by then: a deadline that passes between two steps."""
    client = Events(max_steps=20, timeout=500_000)
    client.reads.clear()
    serving = world.serve(client)
    await asyncio.sleep(0.55)  # the deadline itself, not a wait for something to happen
    client.reads.set()
    await serving
    first, last = client.events()
    assert client.sent[0]["status"] == 200
    assert first["y"] == 1
    assert (last["reason"], world.steps) == ("REQUEST_EXPIRED", 1)


@pytest.mark.parametrize("way", ["generate", "generate_stream"])
async def test_a_lost_caller_frees_its_place_in_the_queue(way: str) -> None:
    """Whichever way it asked; nothing is sent to it."""
    held = Held()
    running = await held.occupied()
    lost = RestExchange()
    lost.path = f"/v2/models/m/{way}"
    lost._body = b'{"x": [1, 1]}'
    serving = held.serve(lost)
    await held.queued()
    lost.gone = True
    await asyncio.wait_for(serving, 5)  # while the first batch is still held
    await held.finish(running)
    assert held.session.rows == [1]
    assert lost.sent == []
