"""Ensembles: a graph of a workspace's endpoints that answers as one.

A step asks an endpoint. What it is fed and what it makes are tensors with names that belong to
the ensemble; a step runs as soon as the tensors that it is fed are there. Those that no step
makes are the ensemble's inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from lepton_mesh.errors import InvalidArgument

MAX_STEPS = 64
MAX_OUTPUTS = 64
MAX_DEPTH = 8
"""Ensembles whose steps are ensembles, one within another."""
MAX_NAME = 255


class EnsembleInvalid(InvalidArgument):
    reason = "ENSEMBLE_INVALID"


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """One endpoint of the graph."""

    endpoint: str
    """Its id."""
    inputs: dict[str, str] = field(default_factory=dict)
    """The model's input -> the tensor that it is fed."""
    outputs: dict[str, str] = field(default_factory=dict)
    """The model's output -> the tensor that it makes."""
    model_version: str = ""
    """Which of the versions that the endpoint serves; "" for any, by weight."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The graph."""

    steps: tuple[EnsembleStep, ...]
    outputs: tuple[str, ...]
    """The tensors that are the ensemble's outputs."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that it asks, each once."""
        return tuple(dict.fromkeys(step.endpoint for step in self.steps))

    @property
    def makers(self) -> dict[str, int]:
        """Tensor -> the index of the step that makes it."""
        return {
            tensor: index
            for index, step in enumerate(self.steps)
            for tensor in step.outputs.values()
        }

    def needs(self) -> list[frozenset[int]]:
        """For each step the indices of those whose tensors it is fed."""
        makers = self.makers
        return [
            frozenset(makers[tensor] for tensor in step.inputs.values() if tensor in makers)
            for step in self.steps
        ]

    def order(self) -> tuple[int, ...]:
        """The steps' indices, each after those that it needs; raises EnsembleInvalid."""
        try:
            return tuple(TopologicalSorter(dict(enumerate(self.needs()))).static_order())
        except CycleError as error:
            ring = " -> ".join(f"'{self.steps[index].endpoint}'" for index in error.args[1])
            raise EnsembleInvalid(f"the steps feed each other in a ring: {ring}") from None


def check_ensemble(ensemble: Ensemble) -> None:
    """Raises EnsembleInvalid for a graph that no endpoints can make whole."""
    _within("steps", len(ensemble.steps), MAX_STEPS)
    _within("outputs", len(ensemble.outputs), MAX_OUTPUTS)
    for step in ensemble.steps:
        for kind, names in (("inputs", step.inputs), ("outputs", step.outputs)):
            if not names:
                raise EnsembleInvalid(
                    f"step '{step.endpoint}' has no {kind}; map the model's {kind} to tensors",
                    step=step.endpoint,
                )
            for name in (*names, *names.values()):
                if not 1 <= len(name) <= MAX_NAME:
                    raise EnsembleInvalid(
                        f"step '{step.endpoint}' has the name '{name[:40]}' in its {kind}; names "
                        f"have 1 to {MAX_NAME} characters",
                        step=step.endpoint,
                    )
    made = Counter(tensor for step in ensemble.steps for tensor in step.outputs.values())
    _refuse(made, lambda tensor: made[tensor] > 1, "is made twice; give each a name of its own")
    asked = Counter(ensemble.outputs)
    _refuse(asked, lambda tensor: asked[tensor] > 1, "is an output twice")
    _refuse(asked, lambda tensor: tensor not in made, "is an output, and no step makes it")
    fed = {tensor for step in ensemble.steps for tensor in step.inputs.values()}
    _refuse(
        made,
        lambda tensor: tensor not in fed and tensor not in asked,
        "is made and never used; feed a step with it, name it as an output, or leave it out",
    )
    ensemble.order()
    if fed <= made.keys():
        raise EnsembleInvalid("the ensemble has no input: steps make every tensor that is used")


def check_depth(depth: int) -> int:
    """Raises EnsembleInvalid for ensembles that nest deeper than they may; else ``depth``."""
    if depth > MAX_DEPTH:
        raise EnsembleInvalid(f"ensembles may nest {MAX_DEPTH} deep, and this would be {depth}")
    return depth


def _within(what: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise EnsembleInvalid(f"an ensemble has 1 to {most} {what}, this one has {count}")


def _refuse(tensors: Iterable[str], wrong: Callable[[str], bool], why: str) -> None:
    for tensor in tensors:
        if wrong(tensor):
            raise EnsembleInvalid(f"the tensor '{tensor}' {why}", tensor=tensor)
