"""The documented examples: the catalogue, what came of them, and one that goes wrong."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lepton.cli.documents import read_mapping
from lepton_local import own_stack as own
from lepton_local.examples import running
from lepton_local.examples.__main__ import examples as command
from lepton_local.examples.catalogue import (
    ADULT,
    EXAMPLES,
    OF_OWN_DATA,
    Aim,
    Example,
    UnknownExample,
    choose,
)
from lepton_local.examples.results import Result, Run, table
from lepton_training.recipes import RECIPES
from lepton_training.spec import parse_spec

SPECS = Path(__file__).parents[3] / "docs" / "examples"
EXAMPLE = Example("adult", ADULT, (Aim("test_accuracy", 0.85),))


def _run(**changes: Any) -> Run:
    run = Run(
        seed=0,
        model_version="models/income/versions/1",
        metrics={"test_accuracy": 0.86, "test_log_loss": 0.3},
        at_gateway={"test_accuracy": 0.86},
        rows=1000,
        seconds=10.0,
        seconds_per_epoch=0.5,
        parity_max_abs_error=1e-7,
    )
    return dataclasses.replace(run, **changes)


def test_every_spec_is_an_example() -> None:
    """None of docs/examples is left out, and none of the catalogue is missing there."""
    known = {example.name for example in EXAMPLES} | OF_OWN_DATA
    assert {path.stem for path in SPECS.glob("*.yaml")} == known


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_spec_is_valid_and_pushes_what_its_example_does(example: Example) -> None:
    """A user who follows the comment at its top has the dataset that it names."""
    path = example.spec(SPECS)
    spec = parse_spec(read_mapping(path, "recipe"), cores=2)
    pushed = re.search(r"^# lepton data push (\S+) ", path.read_text(), re.MULTILINE)
    assert pushed is not None
    assert pushed[1] == example.data.name
    assert spec.dataset == f"datasets/{example.data.name}/versions/latest"


def test_every_recipe_has_an_example() -> None:
    """So that all of them are measured."""
    recipes = {read_mapping(example.spec(SPECS), "recipe")["recipe"] for example in EXAMPLES}
    assert recipes == set(RECIPES)


def test_choosing() -> None:
    """Long ones are run by name, or when all are asked for."""
    long = {example.name for example in EXAMPLES if example.long}
    assert {example.name for example in choose([], everything=False)}.isdisjoint(long)
    assert choose([], everything=True) == list(EXAMPLES)
    named = choose(["mnist-dcgan", "adult"], everything=False)
    assert [example.name for example in named] == ["adult", "mnist-dcgan"]
    with pytest.raises(UnknownExample, match="no example adlut; there are adult, "):
        choose(["adlut"], everything=False)


@pytest.mark.parametrize(
    ("aim", "metrics", "reached"),
    [
        (Aim("a", 0.85), {"a": 0.85}, True),
        (Aim("a", 0.85), {"a": 0.849}, False),
        (Aim("a", 0.85), {}, False),
        (Aim("a", below="b"), {"a": 1.0, "b": 1.1}, True),
        (Aim("a", below="b"), {"a": 1.1, "b": 1.1}, False),
        (Aim("a", below="b"), {"a": 1.0}, False),
    ],
)
def test_aims(aim: Aim, metrics: dict[str, float], reached: bool) -> None:
    """A figure that is not there reaches nothing."""
    assert aim.reached(metrics) is reached


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (Result(EXAMPLE, [_run()]), "passed"),
        (Result(EXAMPLE, [_run(at_gateway={"test_accuracy": 0.861})]), "passed"),
        (Result(EXAMPLE, [_run(at_gateway={"test_accuracy": 0.862})]), "disagrees"),
        (
            Result(
                EXAMPLE,
                [_run(metrics={"test_accuracy": 0.8}, at_gateway={"test_accuracy": 0.8})],
            ),
            "aim missed",
        ),
        (Result(EXAMPLE, [_run()], error="no"), "failed"),
        (Result(EXAMPLE), "failed"),
        (Result(EXAMPLE, error="no file", missing=True), "data missing"),
    ],
)
def test_status(result: Result, status: str) -> None:
    """One row of a thousand may be another; more means that another model is served."""
    assert result.status == status
    assert result.plain()["status"] == status


def test_figures_are_means_over_the_seeds() -> None:
    """And parity is the worst of all."""
    other = _run(
        seed=1,
        metrics={"test_accuracy": 0.84},
        at_gateway={"test_accuracy": 0.84},
        parity_max_abs_error=3e-7,
    )
    plain = Result(EXAMPLE, [_run(), other]).plain()
    assert plain["metrics"] == {"test_accuracy": pytest.approx(0.85)}
    assert plain["at_gateway"] == {"test_accuracy": pytest.approx(0.85)}
    assert plain["parity_max_abs_error"] == 3e-7
    assert [run["seed"] for run in plain["runs"]] == [0, 1]


def test_the_table_has_every_example_and_why_one_did_not_pass() -> None:
    """With the remedy below it."""
    wrong = Result(EXAMPLE, [_run(at_gateway={"test_accuracy": 0.5})])
    missing = Result(EXAMPLES[-1], error="no such file; take it there", missing=True)
    heads, first, second, _, *remarks = table([wrong, missing]).splitlines()
    assert heads.split()[:3] == ["example", "result", "figure"]
    assert re.split(r"\s{2,}", first)[:6] == [
        *("adult", "disagrees", "test_accuracy", "0.8600", "0.5000", ">= 0.85")
    ]
    assert second.startswith("mnist-dcgan  data missing")
    assert remarks == [
        "adult: seed 0: test_accuracy is 0.5 at the gateway and was 0.86 in training",
        "mnist-dcgan: no such file; take it there",
    ]


def test_missing_data_is_told_with_the_remedy(tmp_path: Path) -> None:
    """Which files, and where they are to be had; nothing is asked of the stack."""
    said: list[str] = []
    result = running.run(None, EXAMPLE, SPECS, tmp_path, said.append)  # type: ignore[arg-type]  # not asked
    assert result.status == "data missing"
    assert str(tmp_path / "adult" / "adult-train.csv") in result.error
    assert "archive.ics.uci.edu" in result.error
    assert said == [f"adult: {result.error}"]


def test_what_goes_wrong_stays_in_its_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised: the next one is to have its turn."""
    for name in ADULT.files:
        (tmp_path / "adult").mkdir(exist_ok=True)
        (tmp_path / "adult" / name).touch()

    def push(*_: Any, **__: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(running.steps, "push", push)
    result = running.run(None, EXAMPLE, SPECS, tmp_path, lambda _: None)  # type: ignore[arg-type]  # not asked
    assert (result.status, result.error) == ("failed", "no such thing")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Missing option '--data'"),
        (["--data", "nowhere"], "'nowhere' does not exist"),
        (["--data", ".", "--specs", ".", "--only", "adlut"], "no example adlut; there are adult"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before anything is started."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert told in done.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stack_of_ones_own_is_stopped_whatever_happens(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends it as it is ended otherwise, and so does a kill; a second one waits."""
    happened: list[str] = []

    def bring_down(_: object) -> None:
        os.kill(os.getpid(), number)  # somebody who is impatient
        happened.append("down")

    monkeypatch.setenv("LEPTON_CONFIG", "")
    monkeypatch.setattr(own, "fresh_home", lambda path: path)
    monkeypatch.setattr(own, "bring_up", lambda *_: (None, None))
    monkeypatch.setattr(own, "bring_down", bring_down)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), own.own_stack(tmp_path, "test", happened.append):
        os.kill(os.getpid(), number)
    assert happened == ["starting the stack", "stopping the stack", "down"]
    assert signal.getsignal(number) == before
