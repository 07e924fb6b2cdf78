"""Specs that are read, streams that go on."""

from __future__ import annotations

import datetime
from typing import Any

import grpc
import pytest

from lepton.api.training.v1 import training_pb2 as pb
from lepton.client import Client, NotFoundError, SpecError, UnavailableError, spec_from_mapping
from lepton.client import jobs as module
from tests.unit.sdk.fake_gateway import Gateway, Refusal


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(module.time, "sleep", made.append)
    return made


def events(count: int) -> list[pb.JobEvent]:
    return [pb.JobEvent(sequence=number) for number in range(1, count + 1)]


def test_watch_goes_on_where_it_was(gateway: Gateway, lepton: Client, pauses: list[float]) -> None:
    gateway.training.events = events(5)
    gateway.training.breaks = 2
    seen = [event.sequence for event in lepton.jobs.watch("j1")]
    assert seen == [1, 2, 3, 4, 5]
    assert gateway.training.watched_after == [0, 2, 4]
    assert pauses == [0.5, 0.5]


def test_watch_can_begin_later(gateway: Gateway, lepton: Client) -> None:
    gateway.training.events = events(3)
    assert [event.sequence for event in lepton.jobs.watch("j1", after=2)] == [3]


@pytest.mark.parametrize("follow", [False, True])
def test_logs_repeat_no_line(gateway: Gateway, lepton: Client, follow: bool) -> None:
    gateway.training.lines = ["a", "b", "b", "c", "d"]
    gateway.training.breaks = 1
    assert [line.text for line in lepton.jobs.logs("j1", follow=follow)] == list("abbcd")


def test_a_way_that_stays_broken_is_given_up(
    gateway: Gateway, lepton: Client, pauses: list[float]
) -> None:
    gateway.training.lines = ["a", "b", "c"]
    gateway.training.breaks = 1_000
    seen = []
    with pytest.raises(UnavailableError):
        for line in lepton.jobs.logs("j1"):
            seen.append(line.text)
    assert seen == ["a", "b"]
    assert pauses == [0.5, 1, 2, 4, 5, 5, 5]


def test_a_way_that_never_was_is_not_waited_for(pauses: list[float], gateway: Gateway) -> None:
    from dataclasses import replace

    with (
        Client(replace(gateway.profile, address="localhost:1")) as client,
        pytest.raises(UnavailableError),
    ):
        list(client.jobs.logs("j1"))
    assert pauses == []


def test_a_service_that_starts_again_is_waited_for(
    gateway: Gateway, lepton: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway answers that the service is away: a watch that begins then goes on later."""
    gateway.training.events = events(2)
    gateway.refusals["WatchJob"] = Refusal(
        grpc.StatusCode.UNAVAILABLE, "SERVICE_UNREACHABLE", "try again in a moment"
    )
    monkeypatch.setattr(module.time, "sleep", lambda _: gateway.refusals.clear())
    assert [event.sequence for event in lepton.jobs.watch("j1")] == [1, 2]


def test_a_reader_that_leaves_ends_the_stream(gateway: Gateway, lepton: Client) -> None:
    gateway.training.events = events(1)
    gateway.training.quiet = True
    watch = lepton.jobs.watch("j1")
    assert next(watch).sequence == 1
    watch.close()
    assert gateway.training.released.wait(5)


def test_an_unknown_job_is_not_tried_again(
    gateway: Gateway, lepton: Client, pauses: list[float]
) -> None:
    with pytest.raises(NotFoundError, match="jobs/gone"):
        lepton.jobs.get("gone")
    with pytest.raises(NotFoundError):
        lepton.jobs.delete("gone")
    assert pauses == []


def test_a_spec_as_people_write_it() -> None:
    spec = spec_from_mapping(
        {
            "recipe": "cnn",
            "dataset": "datasets/mnist",
            "seed": 7,
            "hyperparameters": {"epochs": 5, "lr": 0.001, "fast": True},
            "resources": {"timeout_seconds": 600},
            "labels": {"team": "a"},
        }
    )
    assert (spec.recipe, spec.seed, spec.resources.timeout_seconds) == ("cnn", 7, 600)
    assert dict(spec.hyperparameters) == {"epochs": 5, "lr": 0.001, "fast": True}


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"recipee": "cnn"}, "recipee"),
        ({"recipe": 3}, "recipe"),
        ({"seed": "many"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"resources": {"tpus": 1}}, "gpus"),
        ({"resources": [1]}, "resources"),
        ({"hyperparameters": 3}, "hyperparameters"),
        ({"hyperparameters": {"epochs": datetime.date(2026, 1, 1)}}, "epochs"),
        ({"labels": {"a": 1}}, "labels"),
        ({3: "cnn"}, "3"),
    ],
)
def test_what_is_no_spec_is_named(mapping: dict[Any, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        spec_from_mapping(mapping)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Each with its path, its remedy, and nothing of how Python would put it."""
    wrong = {
        "recipee": "cnn",
        "seed": "many",
        "resources": {"tpus": 1, "cpus": "two"},
        "labels": {"a": 1},
    }
    with pytest.raises(SpecError) as caught:
        spec_from_mapping(wrong)
    assert str(caught.value) == (
        "the job spec is not valid: "
        "recipee: there is no such field; the fields are recipe, dataset, model, "
        "hyperparameters, seed, resources, labels, data, code, python, priority, retry, "
        "warm_start, "
        "deterministic, evaluation; "
        "seed: 'many' is not a whole number in range; "
        "resources.tpus: there is no such field; the fields of resources are cpus, memory_mib, "
        "timeout_seconds, gpus; "
        "resources.cpus: 'two' is not a whole number in range; "
        "labels: {'a': 1} is not a mapping of text to text"
    )
