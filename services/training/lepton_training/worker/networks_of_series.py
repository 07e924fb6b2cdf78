"""Network modules over windows of series."""

from __future__ import annotations

from torch import Tensor, nn

from lepton_training.recipes.data import SeriesShape


class SeriesNetwork(nn.Module):
    """FP32 ``[N, window, features]`` to FP32 ``[N, horizon]``, standardized as the targets are."""

    def __init__(
        self, shape: SeriesShape, *, cell: str, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        between = dropout if layers > 1 else 0.0
        self.recurrent = kind(shape.features, hidden, layers, batch_first=True, dropout=between)
        self.drop = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden, shape.outputs)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self._last = (shape.last_factor, shape.last_shift)

    def forward(self, windows: Tensor) -> Tensor:
        hidden, _ = self.recurrent(windows)
        change = self.dense(self.drop(hidden[:, -1]))
        last = windows[:, -1, :1]
        if self._last != (1.0, 0.0):
            last = last * self._last[0] + self._last[1]
        return last + change  # type: ignore[no-any-return]  # modules are Any
