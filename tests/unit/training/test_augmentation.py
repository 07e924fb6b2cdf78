"""Changes to training images: what each does, and that a resumed job sees the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lepton_training.recipes import RECIPES
from lepton_training.worker.augmentation import Augmentation
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.objectives import Classification
from tests.training_jobs import spec_of
from tests.unit.training.resumption import assert_resumed_alike

IMAGES = torch.rand(64, 2, 6, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
ALL = {
    "crop": 2,
    "flip": "both",
    "rotation": 30.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "erase": 0.5,
    "mixup": 0.3,
}


def test_nothing_asked_changes_nothing() -> None:
    """Nor is it called at all."""
    assert not Augmentation()
    assert Augmentation()(IMAGES, 1).equal(IMAGES)
    assert Augmentation.of(RECIPES["cnn"].hyperparameters()) == Augmentation()


@pytest.mark.parametrize("name", ALL)
def test_each_change_is_of_the_seed_alone(name: str) -> None:
    """And stays an image of the same size."""
    change = Augmentation(**{name: ALL[name]})
    changed = change(IMAGES, 5)
    assert changed.shape == IMAGES.shape
    assert not changed.equal(IMAGES)
    assert changed.equal(change(IMAGES, 5)) and not changed.equal(change(IMAGES, 6))
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1


def test_flips_turn_half_of_the_images_over() -> None:
    """Each as a whole, in the direction that was asked for."""
    for flip, sides in (("horizontal", [3]), ("vertical", [2])):
        changed = Augmentation(flip=flip)(IMAGES, 1)
        turned = (changed == IMAGES.flip(sides)).flatten(1).all(dim=1)
        same = (changed == IMAGES).flatten(1).all(dim=1)
        assert (turned ^ same).all()
        assert 16 < int(turned.sum()) < 48
    found = Augmentation(flip="both")(IMAGES, 1)
    kinds = [(found == IMAGES.flip(s)).flatten(1).all(dim=1) for s in ([2], [3], [2, 3])]
    assert all(kind.any() for kind in kinds)


def test_crops_move_each_image_by_its_own() -> None:
    """What goes out at one side comes in black at the other."""
    changed = Augmentation(crop=1)(IMAGES, 1)
    padded = torch.nn.functional.pad(IMAGES, [1] * 4)
    moves = set()
    for image, one in zip(padded, changed, strict=True):
        found = [
            (down, right)
            for down in range(3)
            for right in range(3)
            if one.equal(image[:, down : down + 6, right : right + 8])
        ]
        assert len(found) == 1
        moves |= set(found)
    assert len(moves) == 9


def test_a_quarter_turn_is_a_rotation() -> None:
    """Angles up to 180 degrees either way: near a half turn an image is upside down."""
    square = torch.zeros(400, 1, 9, 9)
    square[:, :, 0, 4] = 1
    changed = Augmentation(rotation=180)(square, 1)
    assert float(changed[:, 0, 8, 4].max()) > 0.9  # below
    assert float(changed[:, 0, 4, 0].max()) > 0.9 and float(changed[:, 0, 4, 8].max()) > 0.9
    slight = Augmentation(rotation=5)(square, 1)
    assert float(slight[:, 0, 5:].max()) == 0


def test_a_rotation_also_flips_and_moves() -> None:
    """With hardly an angle the three together are what the two are."""
    image = torch.zeros(200, 1, 8, 8)
    image[:, :, 3, 1] = 1
    changed = Augmentation(rotation=1e-6, flip="horizontal", crop=1)(image, 2)
    bright = changed[:, 0] > 0.9
    assert bright.flatten(1).sum(dim=1).tolist() == [1] * 200
    assert set(bright.nonzero()[:, 1].tolist()) == {2, 3, 4}
    assert set(bright.nonzero()[:, 2].tolist()) == {0, 1, 2, 5, 6, 7}


def test_erased_rectangles_are_of_one_grey() -> None:
    """On the share of the images that was asked for, of a fiftieth to a fifth of each."""
    images = torch.rand(400, 1, 20, 20) * 0.1 + 0.45
    changed = Augmentation(erase=0.5)(images, 3)
    different = (changed != images)[:, 0]
    touched = different.flatten(1).any(dim=1)
    assert 150 < int(touched.sum()) < 250
    shares = different.flatten(1).float().mean(dim=1)[touched]
    assert float(shares.min()) > 0.005 and float(shares.max()) < 0.3
    for image, where in zip(changed[touched, 0], different[touched], strict=True):
        assert len(image[where].unique()) == 1


def test_mixed_images_have_mixed_classes() -> None:
    """By the same share, which a loss takes as it takes classes."""
    mix = Augmentation(mixup=0.4)
    classes = torch.arange(64) % 3
    share = mix.share(9)
    assert mix(IMAGES, 9) == pytest.approx(IMAGES * share + IMAGES.flip(0) * (1 - share))
    targets = mix.targets(classes, 3, 9)
    assert targets.sum(dim=1) == pytest.approx(torch.ones(64))
    assert float(targets[1, 1]) == pytest.approx(share)
    assert float(targets[1, classes[62]]) == pytest.approx(1 - share)
    outputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    for loss in ("cross_entropy", "bce"):
        objective = Classification(RECIPES["mlp"].hyperparameters(loss=loss), None)
        one, other = objective.loss(outputs, classes), objective.loss(outputs, classes.flip(0))
        mixed = objective.loss(outputs, targets)
        assert float(mixed) == pytest.approx(float(one * share + other * (1 - share)), rel=1e-5)


def test_a_resumed_training_sees_the_same_images(stripes: Path, tmp_path: Path) -> None:
    """Killed in mid-epoch with all that there is, it ends with the same weights."""
    spec = spec_of({"features": ["edges"]}, "mlp", epochs=2, batch_size=32, hidden=8, **ALL)
    hyperparameters: Any = spec.hyperparameters

    assert_resumed_alike("mlp", hyperparameters, lambda: load_problem(stripes, spec), 10, tmp_path)


def test_test_and_validation_images_stay_as_they_are(stripes: Path) -> None:
    """Only what is trained on is changed."""
    plain = load_problem(stripes, spec_of({}, "mlp", validation=0.2))
    changed = load_problem(stripes, spec_of({}, "mlp", validation=0.2, **ALL))
    assert plain.validation is not None and changed.validation is not None
    for name in ("test", "validation", "train"):
        one, other = getattr(plain, name), getattr(changed, name)
        assert one.inputs(slice(None))[0].equal(other.inputs(slice(None))[0])
    rows = torch.arange(16)
    step = changed.train.augmentations(1, torch.Generator().manual_seed(0))[0]
    assert not changed.train.augmented(rows, step)[0].equal(plain.train.inputs(rows)[0])
