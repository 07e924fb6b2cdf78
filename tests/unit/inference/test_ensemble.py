"""What may be an ensemble, whatever its steps' models are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lepton_inference.composition import (
    EndpointInUse,
    check_served,
    check_steps,
    check_unused,
)
from lepton_inference.endpoint import Endpoint, EndpointNotFound, ModelVersion, State, Target
from lepton_inference.ensemble import (
    MAX_DEPTH,
    Ensemble,
    EnsembleInvalid,
    EnsembleStep,
    check_ensemble,
)
from lepton_inference.settings import BatchingSettings, EndpointInvalid, ModelSettings

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PLAIN = (Target("m", 1, ModelVersion("models/m/versions/1", "artifacts/a", "5" * 64)),)


def step(endpoint: str, fed: str, made: str) -> EnsembleStep:
    """One whose model takes ``x`` and gives ``y``."""
    return EnsembleStep(endpoint, {"x": fed}, {"y": made})


def chain(*endpoints: str) -> Ensemble:
    steps = [step(name, f"t{index}", f"t{index + 1}") for index, name in enumerate(endpoints)]
    return Ensemble(tuple(steps), (f"t{len(endpoints)}",))


def endpoint(endpoint_id: str, ensemble: Ensemble | None = None) -> Endpoint:
    return Endpoint(
        workspace="lab",
        id=endpoint_id,
        targets=() if ensemble else PLAIN,
        ensemble=ensemble,
        settings=ModelSettings(),
        state=State.READY,
        creator="users/ada",
        created=NOW,
        updated=NOW,
    )


class Record:
    """Endpoints of one workspace."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.endpoints = {one.id: one for one in endpoints}

    async def get(self, workspace: str, endpoint_id: str) -> Endpoint:
        if endpoint_id not in self.endpoints:
            raise EndpointNotFound("no")
        return self.endpoints[endpoint_id]

    async def page(self, workspace: str, after: str, limit: int) -> list[Endpoint]:
        return [one for name, one in sorted(self.endpoints.items()) if name > after][:2]


def test_the_inputs_are_what_no_step_makes() -> None:
    """A diamond: two steps fed with one tensor, one fed with what both make."""
    diamond = Ensemble(
        (
            EnsembleStep("join", {"a": "left", "b": "right"}, {"sum": "out"}),
            step("one", "image", "left"),
            step("two", "image", "right"),
        ),
        ("out",),
    )
    check_ensemble(diamond)
    assert diamond.order()[-1] == 0
    assert diamond.needs() == [frozenset({1, 2}), frozenset(), frozenset()]
    assert diamond.endpoints == ("join", "one", "two")


@pytest.mark.parametrize(
    ("ensemble", "why"),
    [
        (Ensemble((), ("y",)), "1 to 64 steps, this one has 0"),
        (Ensemble(tuple(step(f"e{n}", "x", f"y{n}") for n in range(65)), ("y1",)), "has 65"),
        (Ensemble((step("a", "x", "y"),), ()), "1 to 64 outputs"),
        (Ensemble((EnsembleStep("a", {}, {"y": "y"}),), ("y",)), "step 'a' has no inputs"),
        (Ensemble((EnsembleStep("a", {"x": "x"}, {}),), ("y",)), "step 'a' has no outputs"),
        (Ensemble((step("a", "", "y"),), ("y",)), "1 to 255 characters"),
        (Ensemble((step("a", "x", "y" * 256),), ("y" * 256,)), "1 to 255 characters"),
        (Ensemble((step("a", "x", "y"), step("b", "x", "y")), ("y",)), "'y' is made twice"),
        (Ensemble((step("a", "x", "y"),), ("y", "y")), "'y' is an output twice"),
        (Ensemble((step("a", "x", "y"),), ("z",)), "'z' is an output, and no step makes it"),
        (Ensemble((step("a", "x", "y"), step("b", "x", "z")), ("z",)), "'y' is made and never"),
        (Ensemble((step("a", "y", "y"),), ("y",)), "in a ring: 'a' -> 'a'"),
        (
            Ensemble((step("a", "x", "y"), step("b", "w", "v"), step("c", "v", "w")), ("y", "v")),
            "in a ring",
        ),
    ],
)
def test_a_graph_that_cannot_be_whole_is_refused(ensemble: Ensemble, why: str) -> None:
    """With the name of what is wrong."""
    with pytest.raises(EnsembleInvalid, match=why):
        check_ensemble(ensemble)


def test_an_endpoint_has_targets_or_an_ensemble() -> None:
    """And an ensemble has no settings, which would have no effect."""
    check_served(endpoint("e", chain("a")))
    check_served(endpoint("e"))
    with pytest.raises(EndpointInvalid, match="targets or an ensemble, not both"):
        check_served(replace(endpoint("e", chain("a")), targets=PLAIN))
    with pytest.raises(EndpointInvalid, match="1 to 16 targets"):
        check_served(replace(endpoint("e"), targets=()))
    for settings in (
        ModelSettings(BatchingSettings(max_rows=1)),
        ModelSettings(response_cache_bytes=4096),
    ):
        with pytest.raises(EndpointInvalid, match="runs nothing itself"):
            check_served(replace(endpoint("e", chain("a")), settings=settings))


async def test_steps_exist_and_end_somewhere() -> None:
    record = Record(endpoint("a"), endpoint("b", chain("a")), endpoint("c", chain("b", "a")))
    await check_steps(record, endpoint("new", chain("a", "b", "c", "a")))
    with pytest.raises(EnsembleInvalid, match="step 'z': there is no such endpoint"):
        await check_steps(record, endpoint("new", chain("a", "z")))
    for changed in (chain("c"), chain("b")):
        with pytest.raises(EnsembleInvalid, match="would ask itself: b > "):
            await check_steps(record, endpoint("b", changed))


async def test_ensembles_nest_so_deep_and_no_deeper() -> None:
    """However many ways lead to the bottom."""
    nested = [endpoint("e0")]
    for depth in range(1, MAX_DEPTH + 1):
        nested.append(endpoint(f"e{depth}", chain(f"e{depth - 1}", "e0")))
        await check_steps(Record(*nested), nested[-1])
    with pytest.raises(EnsembleInvalid, match="8 deep, and this would be 9"):
        await check_steps(Record(*nested), endpoint("top", chain("e0", "e8")))


async def test_what_is_asked_stays() -> None:
    """The refusal names every ensemble that asks, on whatever page of the record."""
    record = Record(
        *(endpoint(name) for name in "abc"),
        endpoint("d", chain("a")),
        endpoint("e", chain("b", "a")),
    )
    record.endpoints["d"] = replace(record.endpoints["d"], unloaded=True)
    with pytest.raises(EndpointInUse, match="is a step of e; unload it first"):
        await check_unused(record, "lab", "a", loaded=True)
    with pytest.raises(EndpointInUse, match="is a step of d, e; delete or change them first"):
        await check_unused(record, "lab", "a")
    await check_unused(record, "lab", "c")
