"""Blur and compression of tiles, (B, 1, P, P) each."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def blurred(tiles: Tensor, sigma_px: float) -> Tensor:
    """Separable Gaussian blur, truncated at 2.2 standard deviations."""
    reach = max(1, math.ceil(2.2 * sigma_px))
    weights = torch.tensor([math.exp(-(k**2) / (2 * sigma_px**2)) for k in range(-reach, reach + 1)])
    weights = weights / weights.sum()
    padded = functional.pad(tiles, (reach, reach, reach, reach), mode="replicate")
    side = tiles.shape[-1]
    across = padded[:, :, :, :side] * weights[0]
    for k in range(1, 2 * reach + 1):
        across = across + padded[:, :, :, k : k + side] * weights[k]
    blurred = across[:, :, :side] * weights[0]
    for k in range(1, 2 * reach + 1):
        blurred = blurred + across[:, :, k : k + side] * weights[k]
    return blurred


def compressed(tiles: Tensor, step: float) -> Tensor:
    """Quantization of 8x8 DCT coefficients, coarser at higher frequencies, as in JPEG.

    Source: Wallace, The JPEG still picture compression standard (1992); the table here is linear, not the standard's.
    """
    batch, _, side, _ = tiles.shape
    basis = _cosines(tiles.device)
    blocks = tiles.view(batch, side // 8, 8, side // 8, 8).transpose(2, 3)
    waves = basis @ blocks @ basis.T
    order = torch.arange(8.0, device=tiles.device)
    table = step * (0.6 + 0.35 * (order[:, None] + order[None]))
    waves = (waves / table).round() * table
    return (basis.T @ waves @ basis).transpose(2, 3).reshape(batch, 1, side, side)


def _cosines(device: torch.device) -> Tensor:
    """Orthonormal basis of the DCT of 8 samples, (8, 8)."""
    n = torch.arange(8.0, device=device)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2)
    return basis
