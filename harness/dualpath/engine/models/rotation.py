"""Rotary embedding (arXiv 2104.09864), halves layout, and its stretching by YaRN (arXiv 2309.00071)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dualpath.core.model_shape import ModelShape, Yarn


class Rotation(NamedTuple):
    """Rotary embedding of some positions."""

    cos: Tensor  # [n, 1, dim], each half the same
    sin: Tensor  # [n, 1, dim], the first half negated

    def apply(self, x: Tensor) -> Tensor:
        """x: [n, heads, dim]"""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)

    def apply_first(self, x: Tensor) -> Tensor:
        """To the first `dim` elements of each head. x: [n, heads, at least dim]"""
        dim = self.cos.shape[-1]
        return torch.cat([self.apply(x[..., :dim]), x[..., dim:]], dim=-1)


class RotaryEmbedding:
    """Of a model: its frequencies, and by how much YaRN scales rotated values and attention's scores."""

    def __init__(self, shape: ModelShape, device: str, dtype: torch.dtype) -> None:
        dim = shape.rope_dim if shape.attention == "mla" else shape.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        frequencies = shape.rope_base**-exponents
        self._dtype = dtype
        self._magnitude = self.score_factor = 1.0
        if shape.yarn is not None:
            frequencies = _stretched(frequencies, dim, shape.rope_base, shape.yarn)
            self._magnitude, self.score_factor = _magnitude(shape.yarn), _score_factor(shape.yarn)
        self._frequencies = frequencies.to(device)

    def rotation(self, positions: Tensor) -> Rotation:
        """Of positions [n] int64. Angles in float64, so that a position's rotation is the same whatever batch it is
        computed in."""
        angles = positions.to(torch.float64)[:, None, None] * self._frequencies
        cos = (angles.cos() * self._magnitude).to(self._dtype)
        sin = (angles.sin() * self._magnitude).to(self._dtype)
        return Rotation(torch.cat([cos, cos], dim=2), torch.cat([-sin, sin], dim=2))


def _stretched(frequencies: Tensor, dim: int, base: float, yarn: Yarn) -> Tensor:
    """Slow frequencies divided by `factor`, fast ones as they are, a ramp between. [dim / 2]"""

    def turning(times: float) -> float:
        """Which element turns so many times over the original context."""
        return dim * math.log(yarn.original_max_position_embeddings / (times * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(turning(yarn.beta_fast)), 0)
    high = min(math.ceil(turning(yarn.beta_slow)), dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float64) - low) / ((high - low) or 0.001)
    slow = ramp.clamp(0, 1)
    return frequencies / yarn.factor * slow + frequencies * (1 - slow)


def _magnitude(yarn: Yarn) -> float:
    """Of rotated values."""
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor, 1.0)


def _score_factor(yarn: Yarn) -> float:
    """Of attention's scores: queries and keys are scaled alike, hence squared."""
    return _mscale(yarn.factor, yarn.mscale_all_dim) ** 2 if yarn.mscale_all_dim else 1.0


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
