"""Grey images, for recipes that generate more of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from lepton_training.recipes import RECIPES
from lepton_training.recipes.data import GenerationSettings, ImageShape
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpec, JobSpecInvalid
from lepton_training.worker.data import images
from lepton_training.worker.data.examples import ArrayExamples
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.image_sources import Reading, labels_of, read
from lepton_training.worker.data.problem import PARITY_ROWS, Problem
from lepton_training.worker.evaluation import Judgement, variety
from lepton_training.worker.objectives import Generation
from lepton_training.worker.platform import TensorSpec

INPUT, OUTPUT = "noise", "images"
SAMPLES_FILE = "samples.png"
_SAMPLES = 1000
_SHOWN = 10
_JUDGE_BATCH = 64


def load(directory: Path, spec: JobSpec, _fitted: Fitted | None = None) -> Problem:
    """The images in ``directory``, to be generated; samples are drawn beside it.

    Raises:
        TooManyInvalid: More images cannot be used than the spec allows.
        DatasetInvalid: The files are damaged, the images too small, or none has such a label.
        JobSpecInvalid: The noise has fewer numbers than there are labels to tell by them, there
            are no two labels to judge by, or settings have no effect on the files that there are.
    """
    settings, hyperparameters = cast(GenerationSettings, spec.data), cast(Any, spec.hyperparameters)
    # The test split is only there for the judge, who has none where there is one class.
    reading = Reading(keep_blank=("test",), open_classes=True)
    source = read(directory, settings, spec.seed, reading)
    data = source.data
    if hyperparameters.judge_epochs and len(np.unique(data.train.labels)) < 2:
        fault = "must be 0: all images have one label, and there is nothing to judge by"
        raise JobSpecInvalid([Fault("spec.hyperparameters.judge_epochs", fault)])
    smallest = RECIPES[spec.recipe].smallest_side
    if min(data.train.images.shape[1:]) < smallest:
        raise DatasetInvalid(f"{spec.dataset} has images with a side below {smallest}")
    train = data.train
    if settings.labels:
        wanted = np.isin(train.labels, labels_of(data, settings.labels, "data.labels"))
        if not wanted.any():
            raise DatasetInvalid("no training image has one of the labels in data.labels")
        train = LabelledImages(train.images[wanted], train.labels[wanted])
    return prepare(
        train,
        data,
        hyperparameters,
        seed=spec.seed,
        samples=directory.parent / SAMPLES_FILE,
        report=source.report,
    )


def prepare(
    train: LabelledImages,
    data: ImageData,
    hyperparameters: Any,
    *,
    seed: int,
    samples: Path,
    report: Mapping[str, Any],
) -> Problem:
    """``train``, to be generated; a judge knows the classes of ``data``."""
    height, width = train.images.shape[1:]
    labels, codes = np.unique(train.labels, return_inverse=True)
    names = [data.class_names[label] for label in labels]
    told = len(labels) if hyperparameters.conditional and len(labels) > 1 else 0
    if told > hyperparameters.latent:
        fault = f"must be {told} or more, as many as there are labels; or set conditional to false"
        raise JobSpecInvalid([Fault("spec.hyperparameters.latent", fault)])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(_SAMPLES, hyperparameters.latent, generator=generator)
    shown_noise = noise[_to_show(noise[:, :told].argmax(dim=1) if told else None)]

    def after_epoch(network: nn.Module, epoch: int) -> Mapping[str, float]:
        network.eval()
        with torch.inference_mode():
            device = next(network.parameters()).device
            shown = network(shown_noise.to(device)).cpu().numpy()
        _draw(samples, shown, epoch)
        return {"samples_mean": float(shown.mean()), "samples_deviation": float(shown.std())}

    def judge(generated: npt.NDArray[np.uint8]) -> Judgement:
        return _judged(generated, data, hyperparameters.judge_epochs, seed)

    return Problem(
        about=f"{len(train.labels)} training images of {height}x{width}"
        + (f" with {told} labels" if told else ""),
        shape=ImageShape(height, width, len(labels)),
        train=images.ImageExamples(LabelledImages(train.images, codes.astype(np.uint8))),
        validation=None,
        test=ArrayExamples((noise,), torch.zeros(_SAMPLES, dtype=torch.int64)),
        objective=Generation(judge if hyperparameters.judge_epochs else None),
        inputs=(
            TensorSpec(
                INPUT,
                "FP32",
                (-1, hyperparameters.latent),
                "standard normal numbers"
                + (f"; the greatest of the first {told} draws {', '.join(names)}" if told else ""),
            ),
        ),
        outputs=(TensorSpec(OUTPUT, "FP32", (-1, height, width), "grey pixels, 0 to 255"),),
        class_names=(),
        raw_rows={INPUT: noise[:PARITY_ROWS].numpy()},
        attachments=(SAMPLES_FILE,),
        report=report,
        after_epoch=after_epoch,
    )


def _to_show(classes: torch.Tensor | None) -> list[int]:
    """Rows of noise to draw in every epoch: of each class in turn, where there are any."""
    if classes is None:
        return list(range(_SHOWN))
    found = classes.tolist()
    turn = [found[:row].count(one) for row, one in enumerate(found)]
    return sorted(range(len(found)), key=lambda row: (turn[row], found[row]))[:_SHOWN]


def _draw(path: Path, shown: npt.NDArray[np.float32], epoch: int) -> None:
    """Puts the samples ``[n, H, W]`` of ``epoch`` below those of the epochs before it."""
    row = np.concatenate(list(np.clip(np.rint(shown), 0, 255).astype(np.uint8)), axis=1)
    rows = [row]
    height = len(row)
    if epoch > 1 and path.exists():
        with Image.open(path) as earlier:
            # An epoch that is done again after a restart replaces its row.
            rows.insert(0, np.asarray(earlier)[: (epoch - 1) * height])
    temporary = path.with_suffix(".tmp")
    Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")
    temporary.replace(path)


def _judged(generated: npt.NDArray[np.uint8], data: ImageData, epochs: int, seed: int) -> Judgement:
    """What a cnn trained on ``data`` says of ``generated`` images."""
    from lepton_training.worker.trainer import Trainer, predict  # noqa: PLC0415 - it imports Problem
    from lepton_training.worker.tuning import Plan  # noqa: PLC0415 - as above

    recipe = RECIPES["cnn"]
    hyperparameters: Any = recipe.hyperparameters(epochs=epochs, batch_size=_JUDGE_BATCH)  # type: ignore[call-arg]  # the declaration of cnn has them
    problem = images.prepare(data, hyperparameters, seed=seed)
    torch.manual_seed(seed)
    network = recipe.build(hyperparameters, problem.shape)
    plan = Plan(torch.get_num_threads(), channels_last=True)
    Trainer(
        network,
        problem,
        hyperparameters,
        seed=seed,
        plan=plan,
        fixed_threads=True,  # the same samples are judged alike, whatever else the machine does
        report=lambda _: None,
    ).run()
    test = predict(network, problem.test, problem.objective, plan)
    accuracy = float((test.argmax(axis=1) == data.test.labels).mean())
    split = LabelledImages(generated, np.zeros(len(generated), np.uint8))
    probabilities = predict(network, images.ImageExamples(split), problem.objective, plan)
    return Judgement(probabilities, accuracy, variety(data.test.images, data.test.labels))
