"""A job's spec is checked as a whole, and all its faults are told together."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.rpc import error_details_pb2

from lepton.api.training.v1 import training_pb2 as pb
from lepton_mesh.interceptors.status import to_status
from lepton_training.convert import spec_document, spec_message
from lepton_training.recipes import RECIPES
from lepton_training.recipes.fitting import batch_size_for
from lepton_training.recipes.hyperparameters import FAULTS_MAX, describe
from lepton_training.spec import JobSpecInvalid, Retry, check_size, parse_spec

GOOD: dict[str, Any] = {
    "recipe": "cnn",
    "dataset": "datasets/mnist/versions/1",
    "model": "models/digits",
}


def faults(document: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(JobSpecInvalid) as caught:
        parse_spec(document, cores=2, memory_mib=4096, gpus=0)
    return dict(caught.value.faults)


def test_defaults_are_filled_in() -> None:
    """A spec of three lines is enough."""
    spec = parse_spec(GOOD, cores=2)
    assert spec.hyperparameters.model_dump() == {
        "epochs": 5,
        "batch_size": 0,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 0.05,
        "decay_epochs": 1,
        "decay_factor": 0.1,
        "gradient_clip": 0.0,
        "ema": 0.0,
        "validation": 0.0,
        "early_stopping": 0,
        "loss": "cross_entropy",
        "label_smoothing": 0.0,
        "class_weights": [],
        "balanced": False,
        "crop": 0,
        "flip": "none",
        "rotation": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "erase": 0.0,
        "mixup": 0.0,
        "shift": 1,
    }
    assert (spec.seed, spec.resources.cpus) == (0, 0)


@pytest.mark.parametrize(
    ("examples", "size"), [(1, 16), (2047, 16), (2048, 32), (4095, 32), (4096, 64), (60_000, 64)]
)
def test_small_data_has_small_batches(examples: int, size: int) -> None:
    """Where nobody chose a size."""
    assert batch_size_for(examples) == size


def test_a_spec_survives_its_own_record() -> None:
    """What is stored is read back the same."""
    spec = parse_spec(
        GOOD
        | {
            "seed": 7,
            "resources": {"cpus": 1, "gpus": 2},
            "labels": {"team": "a"},
            "priority": "LOW",
            "retry": {"max_attempts": 5, "initial_backoff_seconds": 0.5},
            "deterministic": True,
        },
        cores=2,
    )
    assert parse_spec(spec.to_dict(), cores=2) == spec


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (2000, 10.0)]
)
def test_waits_double_up_to_the_longest(failures: int, seconds: float) -> None:
    """However often an attempt fails."""
    retry = Retry(initial_backoff_seconds=2.0, max_backoff_seconds=10.0)
    assert retry.backoff_seconds(failures) == seconds


def test_whole_numbers_may_come_as_doubles() -> None:
    """Numbers of a protobuf Struct are doubles; 3.0 epochs are 3."""
    spec = parse_spec(GOOD | {"hyperparameters": {"epochs": 3.0, "learning_rate": 1}}, cores=2)
    assert spec.hyperparameters.model_dump()["epochs"] == 3


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"recipe": ""}, "spec.recipe", "must be given"),
        ({"recipe": "cnnn"}, "spec.recipe", "did you mean 'cnn'?"),
        ({"recipe": 3}, "spec.recipe", "expected text"),
        ({"dataset": "mnist"}, "spec.dataset", "datasets/<dataset>/versions/<n>"),
        ({"dataset": "datasets/mnist/versions/0"}, "spec.dataset", "not a dataset version"),
        ({"model": "digits"}, "spec.model", "models/<model>"),
        ({"model": "models/Digits"}, "spec.model", "lower-case"),
        ({"sed": 1}, "spec.sed", "did you mean 'seed'?"),
        ({"seed": -1}, "spec.seed", "not between 0"),
        ({"seed": True}, "spec.seed", "whole number"),
        ({"resources": {"cpus": -1}}, "spec.resources.cpus", "not between 0"),
        (
            {"resources": {"cpus": 3}},
            "spec.resources.cpus",
            "asks for 3 cores, and the machine has 2",
        ),
        (
            {"resources": {"memory_mib": 4097}},
            "spec.resources.memory_mib",
            "asks for 4097 MiB of memory, and the machine has 4096",
        ),
        (
            {"resources": {"gpus": 1}},
            "spec.resources.gpus",
            "asks for 1 GPUs, and the machine has 0",
        ),
        ({"resources": {"tpus": 1}}, "spec.resources.tpus", "did you mean 'gpus'?"),
        ({"priority": "URGENT"}, "spec.priority", "expected LOW, NORMAL, HIGH, got 'URGENT'"),
        ({"priority": 3}, "spec.priority", "expected LOW, NORMAL, HIGH"),
        ({"retry": {"max_attempts": 101}}, "spec.retry.max_attempts", "between 0 and 100"),
        (
            {"retry": {"initial_backoff_seconds": float("nan")}},
            "spec.retry.initial_backoff_seconds",
            "not between 0 and 86400",
        ),
        (
            {"retry": {"max_backoff_seconds": "5"}},
            "spec.retry.max_backoff_seconds",
            "expected a number, got '5'",
        ),
        (
            {"retry": {"initial_backoff_seconds": 5, "max_backoff_seconds": 2}},
            "spec.retry.max_backoff_seconds",
            "less than initial_backoff_seconds",
        ),
        ({"deterministic": "yes"}, "spec.deterministic", "expected true or false"),
        ({"resources": 2}, "spec.resources", "expected a mapping"),
        ({"labels": {"a": 1}}, "spec.labels.a", "expected text"),
        (
            {"hyperparameters": {"epoch": 3}},
            "spec.hyperparameters.epoch",
            "unknown hyperparameter; did you mean 'epochs'?",
        ),
        ({"hyperparameters": {"epochs": 0}}, "spec.hyperparameters.epochs", "greater than"),
        ({"hyperparameters": {"epochs": 1.5}}, "spec.hyperparameters.epochs", "integer"),
        ({"hyperparameters": {"epochs": "5"}}, "spec.hyperparameters.epochs", "integer"),
        ({"hyperparameters": {"epochs": True}}, "spec.hyperparameters.epochs", "integer"),
        ({"hyperparameters": {"schedule": "x"}}, "spec.hyperparameters.schedule", "'cosine'"),
        (
            {"hyperparameters": {"learning_rate": float("nan")}},
            "spec.hyperparameters.learning_rate",
            "finite",
        ),
    ],
)
def test_a_fault_names_its_path_and_the_remedy(
    change: dict[str, Any], path: str, message: str
) -> None:
    """One wrong thing is one fault."""
    found = faults(GOOD | change)
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_a_fault_wherever_it_is(number: float) -> None:
    """Messages can hold what JSON cannot, in a recipe's settings and in what own code is given."""
    message = spec_message(parse_spec(GOOD, cores=2).to_dict())
    message.hyperparameters["learning_rate"] = number
    message.data["classes"] = [{"a": number}]
    assert set(faults(spec_document(message))) >= {
        "spec.hyperparameters.learning_rate",
        "spec.data.classes.0.a",
    }
    own = pb.JobSpec(
        dataset="datasets/mnist/versions/1",
        model="models/digits",
        code=pb.Code(artifact="artifacts/a", entry_point="a:b"),
    )
    own.hyperparameters.update({"rates": [1.0, number], "depth": {"of": number}})
    assert set(faults(spec_document(own))) == {
        "spec.hyperparameters.rates.1",
        "spec.hyperparameters.depth.of",
    }
    module = pb.JobSpec(code=pb.Code(module="a:b"))
    module.code.arguments.update({"width": number})
    assert "finite" in faults(spec_document(module))["spec.code.arguments.width"]


def test_all_faults_come_together() -> None:
    """Nobody mends a spec one error at a time."""
    found = faults(
        {
            "recipe": "mlp",
            "dataset": "x",
            "hyperparameters": {"epochs": 0, "shift": 1},
            "nonsense": 1,
            "resources": {"cpus": 99},
        }
    )
    assert set(found) == {
        "spec.dataset",
        "spec.model",
        "spec.hyperparameters.epochs",
        "spec.hyperparameters.shift",
        "spec.nonsense",
        "spec.resources.cpus",
    }


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_every_hyperparameter_is_described(recipe: Any) -> None:
    """Users read type, default and meaning of everything they can set."""
    for one in describe(recipe.hyperparameters):
        assert one.type in ("int", "float", "bool", "string", "list")
        assert json.loads(one.default_json) == getattr(recipe.hyperparameters(), one.name)
        assert one.description.endswith(".")
    for one in describe(recipe.data.settings):
        assert one.type in ("int", "float", "bool", "string", "list")
        assert one.description.endswith(".")


@pytest.mark.parametrize(
    ("hyperparameters", "field", "message"),
    [
        ({"momentum": 0.9}, "momentum", "has no effect with adam; use sgd or rmsprop"),
        ({"optimizer": "sgd", "nesterov": True}, "nesterov", "a momentum above 0"),
        ({"decay_epochs": 2}, "decay_epochs", "has no effect with cosine"),
        ({"schedule": "one_cycle", "decay_factor": 0.5}, "decay_factor", "use step or plateau"),
        ({"early_stopping": 3}, "early_stopping", "needs a validation split"),
        ({"class_weights": [1, 2], "balanced": True}, "class_weights", "cannot be given with"),
        ({"class_weights": [0, 0]}, "class_weights", "one of them above 0"),
        ({"class_weights": [1, "x"]}, "class_weights.1", "number"),
        ({"optimizer": "lion"}, "optimizer", "'adamw'"),
    ],
)
def test_a_hyperparameter_without_effect_is_a_fault(
    hyperparameters: dict[str, Any], field: str, message: str
) -> None:
    """Nobody believes to train with momentum and does not."""
    found = faults(GOOD | {"hyperparameters": hyperparameters})
    assert list(found) == [f"spec.hyperparameters.{field}"]
    assert message in found[f"spec.hyperparameters.{field}"]


def test_what_is_wrong_alone_and_what_is_wrong_together_are_told_at_once() -> None:
    """A fault in one field hides no conflict between others."""
    found = faults(GOOD | {"hyperparameters": {"epochs": 0, "momentum": 0.9}})
    assert set(found) == {"spec.hyperparameters.epochs", "spec.hyperparameters.momentum"}


def test_an_unknown_setting_of_the_data_is_named() -> None:
    """With the one that was meant."""
    found = faults(GOOD | {"data": {"heigth": 8}})["spec.data.heigth"]
    assert "unknown setting; did you mean 'height'?" in found


@pytest.mark.parametrize(
    ("evaluation", "path", "message"),
    [
        ({"slice": ["sex"]}, "slice", "did you mean 'slices'?"),
        ({"slices": "sex"}, "slices", "list"),
        ({"slices": [3]}, "slices[0]", "expected a column, or {column: age, bins: [30, 50]}"),
        ({"slices": ["a", {"bins": [1]}]}, "slices[1].column", "the name of a column"),
        ({"slices": [{"column": "a", "edges": [1]}]}, "slices[0].edges", "known: bins, column"),
        ({"slices": [{"column": "a", "bins": [2, 1]}]}, "slices[0].bins", "must rise"),
        ({"slices": [{"column": "a", "bins": ["1"]}]}, "slices[0].bins", "expected numbers"),
        ({"slices": ["a", {"column": "a", "bins": [1]}]}, "slices[1]", "'a' is there already"),
        ({"small_slice": 5}, "small_slice", "has no effect without slices"),
        ({"resamples": 10_001}, "resamples", "less than or equal to 10000"),
        ({"resamples": 0, "confidence": 0.9}, "confidence", "has no effect without resamples"),
    ],
)
def test_an_evaluation_that_cannot_be_is_a_fault(
    evaluation: dict[str, Any], path: str, message: str
) -> None:
    """With the path of what is wrong, down to the slice."""
    table = {"recipe": "tabular", "data": {"target": "y"}}
    found = faults(GOOD | table | {"evaluation": evaluation})
    assert list(found) == [f"spec.evaluation.{path}"]
    assert message in found[f"spec.evaluation.{path}"]


def test_images_have_no_columns_to_evaluate_by() -> None:
    """What would have no effect is a fault."""
    evaluation = {"slices": ["sex"], "importance_repeats": 9}
    found = faults(GOOD | {"evaluation": evaluation})
    assert list(found) == ["spec.evaluation.slices", "spec.evaluation.importance_repeats"]
    generated = GOOD | {"recipe": "dcgan", "evaluation": {"explanations": 3}}
    assert list(faults(generated)) == ["spec.evaluation.explanations"]


def test_an_evaluation_survives_its_record() -> None:
    """Slices too, whose numbers come as doubles."""
    document = GOOD | {
        "recipe": "tabular",
        "data": {"target": "y"},
        "evaluation": {"slices": ["sex", {"column": "age", "bins": [30.0, 50]}], "resamples": 9.0},
    }
    spec = parse_spec(document, cores=2)
    assert parse_spec(spec.to_dict(), cores=2) == spec
    message = spec_message(spec.to_dict())
    assert parse_spec(spec_document(message), cores=2) == spec
    assert [(each.column, each.edges) for each in spec.evaluation.columns] == [
        ("sex", ()),
        ("age", (30.0, 50.0)),
    ]


@pytest.mark.parametrize(
    ("labels", "path", "message"),
    [
        ({"a" * 64: "x"}, f"spec.labels.{'a' * 63}", "1 to 63 characters"),
        ({"": "x"}, "spec.labels.", "1 to 63 characters"),
        ({"team": "x" * 257}, "spec.labels.team", "more than 256 characters"),
        ({"team": 3}, "spec.labels.team", "expected text"),
        ({str(n): "" for n in range(65)}, "spec.labels", "at most 64"),
    ],
)
def test_labels_are_short(labels: dict[str, Any], path: str, message: str) -> None:
    """A job's record is sent again with each of its phases."""
    assert message in faults(GOOD | {"labels": labels})[path]
    fits = {"a" * 63: "x" * 256} | {str(n): "" for n in range(63)}
    assert parse_spec(GOOD | {"labels": fits}, cores=2).labels == fits


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"a": "x" * (1 << 18)}},
        {"data": {"header": ["column" * 100] * 1000}},
        {"hyperparameters": {f"unknown-{n}": 1 for n in range(30_000)}},
        {"code": {"arguments": {"a": {"b": ["é" * (1 << 17)]}}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_spec_has_a_size(change: dict[str, Any]) -> None:
    """Whatever it is made of, and before anything else is looked at."""
    with pytest.raises(JobSpecInvalid, match="at most 262144") as caught:
        check_size(GOOD | change)
    assert len(caught.value.message) < 300
    check_size(parse_spec(GOOD, cores=2).to_dict())


def test_of_very_many_faults_some_are_told() -> None:
    """Looking for names that are near takes time for each."""
    many = {f"epoch-{n}": 1 for n in range(5000)}
    assert len(faults(GOOD | {"hyperparameters": many})) == FAULTS_MAX
    assert len(faults(GOOD | {"resources": many})) == FAULTS_MAX


def test_the_fields_at_fault_travel_whole() -> None:
    """In the metadata: what does not fit is left out, not cut in its middle."""
    many = {f"x{number:040}": 1 for number in range(10)}
    with pytest.raises(JobSpecInvalid) as caught:
        parse_spec(GOOD | {"seed": -1, "hyperparameters": many}, cores=2)
    fields = caught.value.metadata["fields"].split(",")
    assert len(fields) > 1
    assert set(fields) < {fault.path for fault in caught.value.faults}
    info = error_details_pb2.ErrorInfo()
    to_status(caught.value).details[0].Unpack(info)
    assert info.metadata["fields"].split(",") == fields
