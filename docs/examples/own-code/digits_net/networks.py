"""A network, as plain PyTorch."""

from torch import nn


def build(shape, width=32):
    """Images FP32 [N, inputs, height, width] to logits [N, classes]."""
    return nn.Sequential(
        nn.Conv2d(shape.inputs, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width * (shape.height // 2) * (shape.width // 2), shape.classes),
    )
