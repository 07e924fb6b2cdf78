"""Network modules over the codes of texts: INT64 ``[N, length]``, filled up with 0 at the end.

What follows a text in its batch changes nothing in its outputs: a text alone and one
beside longer ones are answered alike.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.data import TextShape

_PRIME = 1_000_003


class BagNetwork(nn.Module):
    """The sum of the embeddings of a text's distinct n-grams, divided by the root of their number,
    and one dense layer.

    Joulin et al., "Bag of Tricks for Efficient Text Classification" (2016): n-grams of more
    than one token share buckets. That a token occurs counts, not how often (Pang et al. 2002).
    """

    def __init__(
        self, shape: TextShape, *, dimensions: int, ngrams: int, buckets: int, dropout: float
    ) -> None:
        super().__init__()
        self._vocabulary, self._ngrams, self._buckets = shape.vocabulary, ngrams, buckets
        self._dropout = dropout
        entries = shape.vocabulary + (buckets if ngrams > 1 else 0)
        self.embedding = nn.Embedding(entries, dimensions, padding_idx=0)
        # From zero: with noise, buckets that training never touched would count in every text.
        nn.init.zeros_(self.embedding.weight)
        self.dense = nn.Linear(dimensions, shape.outputs)

    def forward(self, codes: Tensor) -> Tensor:
        bag = self._bag(codes)
        return self._decide(self.embedding(bag), bag)

    def embed(self, codes: Tensor) -> Tensor:
        """FP32 ``[N, grams, dimensions]``, in the order of the grams' codes."""
        return self.embedding(self._bag(codes))  # type: ignore[no-any-return]  # modules are Any

    def decide(self, embedded: Tensor, codes: Tensor) -> Tensor:
        """The outputs for what ``embed`` gave of ``codes``."""
        return self._decide(embedded, self._bag(codes))

    def _decide(self, embedded: Tensor, bag: Tensor) -> Tensor:
        new = F.pad(bag[:, 1:] != bag[:, :-1], (1, 0), value=True)
        weight = (new & (bag > 1)).float()  # neither padding nor unknown
        if self.training and self._dropout:
            weight = weight * (torch.rand_like(weight) >= self._dropout)
        total = (embedded * weight.unsqueeze(2)).sum(dim=1)
        norm = weight.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
        return self.dense(total / norm)  # type: ignore[no-any-return]  # modules are Any

    def spread(self, codes: Tensor, attributions: Tensor) -> Tensor:
        """What ``attributions`` ``[grams, dimensions]`` of ``codes`` ``[1, length]`` come to for
        each token, ``[length]``: a gram's is shared by all tokens of all places where it stands."""
        grams = self._grams(codes)[0]
        kinds, of_bag = map(
            torch.from_numpy, np.unique(self._bag(codes)[0].numpy(), return_inverse=True)
        )
        sums = torch.zeros(len(kinds)).index_add_(0, of_bag, attributions.sum(dim=1))
        of_gram = torch.searchsorted(kinds, grams)
        counts = torch.bincount(of_gram, minlength=len(kinds))
        each = sums[of_gram] / counts[of_gram]
        length = codes.shape[1]
        found, begin = torch.zeros(length), 0
        for size in range(1, self._ngrams + 1):
            places = max(0, length - size + 1)
            share = each[begin : begin + places] / size
            begin += places
            for offset in range(size):
                found[offset : offset + places] += share
        return found

    def _bag(self, codes: Tensor) -> Tensor:
        """All n-grams in the order of their codes, so that the same ones are neighbours."""
        bag, _ = self._grams(codes).sort(dim=1)
        return bag

    def _grams(self, codes: Tensor) -> Tensor:
        """Codes ``[N, grams]`` of all n-grams as they stand, the shorter ones first."""
        grams = [codes]
        joined, known = codes, codes > 1
        for size in range(2, self._ngrams + 1):
            joined = joined[:, :-1] * _PRIME + codes[:, size - 1 :]
            # One that reaches into the padding is none; nor is one with an unknown token, which
            # would be the same whatever that token was.
            known = known[:, :-1] & (codes[:, size - 1 :] > 1)
            grams.append((joined % self._buckets + self._vocabulary) * known.long())
        return torch.cat(grams, dim=1)


class RecurrentNetwork(nn.Module):
    """LSTM or GRU over embeddings, in one direction or both; mean and maximum over the text."""

    def __init__(
        self,
        shape: TextShape,
        *,
        cell: str,
        dimensions: int,
        hidden: int,
        layers: int,
        both: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, dimensions, padding_idx=0)
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        between = dropout if layers > 1 else 0.0
        self.directions = nn.ModuleList(
            kind(dimensions, hidden, layers, batch_first=True, dropout=between)
            for _ in range(2 if both else 1)
        )
        self.drop = nn.Dropout(dropout)
        self.dense = nn.Linear(2 * hidden * len(self.directions), shape.outputs)

    def forward(self, codes: Tensor) -> Tensor:
        return self.decide(self.embed(codes), codes)

    def embed(self, codes: Tensor) -> Tensor:
        """FP32 ``[N, length, dimensions]``."""
        return self.embedding(codes)  # type: ignore[no-any-return]  # modules are Any

    def decide(self, embedded: Tensor, codes: Tensor) -> Tensor:
        """The outputs for what ``embed`` gave of ``codes``."""
        there = (codes != 0).unsqueeze(2)
        length = there.sum(dim=1)
        vectors = self.drop(embedded)
        parts = []
        for index, direction in enumerate(self.directions):
            given = vectors
            if index:  # each text backwards, its padding still at the end
                steps = torch.arange(codes.shape[1], device=codes.device).unsqueeze(0)
                order = (length - 1 - steps).clamp(min=0).unsqueeze(2)
                given = vectors.gather(1, order.expand(-1, -1, vectors.shape[2]))
            hidden, _ = direction(given)
            mean = (hidden * there).sum(dim=1) / length.clamp(min=1)
            top = hidden.masked_fill(~there, -2.0).amax(dim=1)  # hidden values are in [-1, 1]
            parts += [mean, top]
        return self.dense(self.drop(torch.cat(parts, dim=1)))  # type: ignore[no-any-return]  # as above


class EncoderNetwork(nn.Module):
    """Transformer encoder (Vaswani et al. 2017, normalized first); a token of its own is read.

    Positions are sines, so that a text may be longer than any of training.
    """

    def __init__(
        self,
        shape: TextShape,
        *,
        dimensions: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self._dimensions = dimensions
        self.embedding = nn.Embedding(shape.vocabulary, dimensions, padding_idx=0)
        self.summary = nn.Parameter(torch.zeros(1, 1, dimensions))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(EncoderBlock(dimensions, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dimensions)
        self.dense = nn.Linear(2 * dimensions, shape.outputs)

    def forward(self, codes: Tensor) -> Tensor:
        return self.decide(self.embed(codes), codes)

    def embed(self, codes: Tensor) -> Tensor:
        """FP32 ``[N, length, dimensions]``."""
        return self.embedding(codes)  # type: ignore[no-any-return]  # modules are Any

    def decide(self, embedded: Tensor, codes: Tensor) -> Tensor:
        """The outputs for what ``embed`` gave of ``codes``."""
        there = codes != 0
        vectors = embedded * math.sqrt(self._dimensions) + self._positions(codes)
        summary = self.summary.expand(codes.shape[0], -1, -1)
        hidden = self.drop(torch.cat([summary, vectors], dim=1))
        seen = F.pad(there, (1, 0), value=True)
        for block in self.blocks:
            hidden = block(hidden, seen)
        hidden = self.norm(hidden)
        weight = seen.unsqueeze(2).float()
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        return self.dense(torch.cat([hidden[:, 0], mean], dim=1))  # type: ignore[no-any-return]  # as above

    def _positions(self, codes: Tensor) -> Tensor:
        steps = torch.arange(codes.shape[1], device=codes.device).float().unsqueeze(1)
        half = torch.arange(0, self._dimensions, 2, device=codes.device).float()
        angles = steps * torch.exp(half * (-math.log(10_000.0) / self._dimensions))
        return torch.cat([angles.sin(), angles.cos()], dim=1).unsqueeze(0)


class EncoderBlock(nn.Module):
    """Self-attention and two dense layers, each beside a shortcut."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads, self._dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(dimensions), nn.LayerNorm(dimensions)
        self.project = nn.Linear(dimensions, 3 * dimensions)
        self.join = nn.Linear(dimensions, dimensions)
        self.dense = nn.Sequential(
            nn.Linear(dimensions, 4 * dimensions),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * dimensions, dimensions),
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        rows, length, dimensions = hidden.shape
        parts = self.project(self.norm1(hidden)).view(
            rows, length, 3, self._heads, dimensions // self._heads
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=seen[:, None, None, :],
            dropout_p=self._dropout if self.training else 0.0,
        )
        joined = attended.transpose(1, 2).reshape(rows, length, dimensions)
        hidden = hidden + self.drop(self.join(joined))
        return hidden + self.drop(self.dense(self.norm2(hidden)))  # type: ignore[no-any-return]  # as above
