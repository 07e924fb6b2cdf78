"""Scales and features of images: as a plain reference has them, and the same once exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lepton_training.recipes import RECIPES, ImageShape
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.image_front import Fronted, colors, edges, texture
from lepton_training.worker.networks import scale
from tests.training_jobs import exported, spec_of, trained
from tests.unit.training.test_image_files import pictures, write

GREY = np.random.default_rng(0).integers(0, 256, (3, 7, 9)).astype(np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (3, 6, 5, 3)).astype(np.uint8)
# Neighbors that are as bright as a pixel count as not darker.
FLAT = np.repeat(np.arange(5, dtype=np.uint8)[None, :, None] * 50, 6, axis=2)


def fields(image: np.ndarray) -> np.ndarray:
    """The 3x3 field around each pixel, ``[H, W, 3, 3]``."""
    padded = np.pad(image.astype(np.float64), 1, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3))


@pytest.mark.parametrize("images", [GREY, RGB, FLAT], ids=["grey", "rgb", "flat"])
def test_edges_are_the_length_of_sobels_gradient(images: np.ndarray) -> None:
    """Of the grey of an image."""
    found = edges(scale(torch.from_numpy(images))).numpy()[:, 0]
    grey = images / 255 if images.ndim == 3 else images / 255 @ [0.299, 0.587, 0.114]
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    for image, result in zip(grey, found, strict=True):
        around = fields(image)
        steep = np.hypot((around * across).sum((2, 3)), (around * across.T).sum((2, 3))) / 4
        assert result == pytest.approx(steep, abs=2e-6)


@pytest.mark.parametrize("images", [GREY, RGB, FLAT], ids=["grey", "rgb", "flat"])
def test_texture_counts_uniform_patterns(images: np.ndarray) -> None:
    """Pixel by pixel, as the definition has it."""
    found = texture(scale(torch.from_numpy(images))).numpy()
    whole = images if images.ndim == 3 else images.astype(np.int64).sum(axis=3)
    for image, result in zip(whole, found, strict=True):
        counts = np.zeros(10)
        for field in fields(image).reshape(-1, 3, 3):
            ring = [*field[0], field[1, 2], *field[2][::-1], field[1, 0]]
            bits = [int(value >= field[1, 1]) for value in ring]
            changes = sum(a != b for a, b in zip(bits, bits[1:] + bits[:1], strict=True))
            counts[sum(bits) if changes <= 2 else 9] += 1
        assert result == pytest.approx(counts / counts.sum() * 10, abs=1e-5)


@pytest.mark.parametrize("images", [GREY, RGB], ids=["grey", "rgb"])
def test_colors_are_counted_in_sixteen_bins(images: np.ndarray) -> None:
    """Of each channel."""
    found = colors(scale(torch.from_numpy(images))).numpy()
    for image, result in zip(images.reshape(*images.shape[:3], -1), found, strict=True):
        wanted = [np.histogram(channel, 16, (0, 256))[0] for channel in np.moveaxis(image, 2, 0)]
        pixels = image.shape[0] * image.shape[1]
        assert result == pytest.approx(np.concatenate(wanted) / pixels * 16, abs=1e-5)


@pytest.mark.parametrize("recipe", ["cnn", "mlp", "resnet"])
def test_what_is_exported_has_the_features(recipe: str, tmp_path: Path) -> None:
    """Every recipe, with all of them, of colored images: trained, and compared in batches."""
    write(tmp_path / "data", pictures(60, rgb=True))
    data = {"features": ["edges", "texture", "color"], "scaling": "standard"}
    width = {"resnet": {"width": 4, "blocks": 1}}.get(recipe, {})
    spec = spec_of(data, recipe, epochs=2, batch_size=16, **width)
    problem = load_problem(tmp_path / "data", spec)
    assert problem.inputs[0].shape == (-1, 8, 8, 3)
    network = trained(problem, spec)
    assert isinstance(network, Fronted) and network.beside is not None
    assert float(network.beside.weight.detach().abs().sum()) > 0
    assert exported(tmp_path / "export", problem, spec, network)["agrees"]


def test_standard_scaling_is_of_training_pixels(tmp_path: Path) -> None:
    """Each channel by itself: what the network sees has mean 0 and deviation 1."""
    write(tmp_path, pictures(40, rgb=True))
    spec = spec_of({"scaling": "standard"}, "mlp")
    problem = load_problem(tmp_path, spec)
    pixels = problem.train.inputs(slice(None))[0]
    front = Fronted(torch.nn.Identity(), problem.shape)
    seen = front(pixels)
    assert seen.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert seen.std(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    assert problem.report["mean"] == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-6)


def test_symmetric_scaling_is_from_minus_one_to_one() -> None:
    """And plain [0, 1] needs nothing in front."""
    front = Fronted(torch.nn.Identity(), ImageShape(2, 2, 2, mean=(0.5,), deviation=(0.5,)))
    assert front(torch.tensor([[[[0.0, 0.5, 1.0]]]])).flatten().tolist() == [-1, 0, 1]
    recipe = RECIPES["mlp"]
    plain = recipe.build(recipe.hyperparameters(), ImageShape(8, 8, 2))
    assert not isinstance(plain, Fronted)
