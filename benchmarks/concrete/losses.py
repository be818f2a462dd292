"""Training losses of the candidate network.

Shape letters: B tiles of a batch, P side of a tile at the input [px].
"""

import torch
from torch import Tensor
from torch.nn import functional

from .network import FOLD, Output, line_features
from .synthetic_cracks import MASK_COVERAGE, Damaged

# A pixel with a coverage from here to MASK_COVERAGE is ambiguous and ignored.
IGNORED_ABOVE = 0.04
# Weight of a cracked pixel relative to a sound one: about 2 % of the pixels are cracked.
CRACK_PIXEL_WEIGHT = 3.0
# Weights of the losses of the pixels, of cells of FOLD px (which tolerate a shift by a pixel), of the mean of the
# tile's highest cells, and of the tile head.
PIXEL_WEIGHT, CELL_WEIGHT, TOP_WEIGHT, TILE_WEIGHT = 0.5, 1.0, 0.2, 0.2
# Weight of the KL divergence [squared grey level per nat], the package's default.
BETA = 1e-6


def loss(output: Output, damaged: Damaged) -> tuple[Tensor, dict[str, float]]:
    """Total loss of a batch, and its unweighted terms by name."""
    coverage = damaged.coverage_B1PP
    mask = (coverage > MASK_COVERAGE).float()
    is_known = ((coverage <= IGNORED_ABOVE) | (mask > 0)).float()
    logits = output.crack_B1PP
    pixels = _cross_entropy(logits, mask, is_known)
    cells = _cross_entropy(*(functional.max_pool2d(maps, FOLD) for maps in (logits, mask, is_known)))
    top = functional.binary_cross_entropy_with_logits(line_features(logits)[:, 1], damaged.is_cracked_B)
    tile = functional.binary_cross_entropy_with_logits(output.tile_B, damaged.is_cracked_B)
    target = functional.avg_pool2d(damaged.clean_B1PP, damaged.clean_B1PP.shape[-1] // output.coarse_B1QQ.shape[-1])
    error = (output.reconstruction_B1QQ - target).square().mean()
    kl = 0.5 * (output.mu_BZ.square() + output.logvar_BZ.exp() - 1 - output.logvar_BZ).sum(dim=1).mean()
    total = PIXEL_WEIGHT * pixels + CELL_WEIGHT * cells + TOP_WEIGHT * top + TILE_WEIGHT * tile + error + BETA * kl
    parts = {"pixels": pixels, "cells": cells, "top": top, "tile": tile, "error": error, "kl": kl}
    return total, {name: float(part.detach()) for name, part in parts.items()}


def _cross_entropy(logits: Tensor, mask: Tensor, is_known: Tensor) -> Tensor:
    """Weighted binary cross-entropy of the known pixels, a scalar."""
    weight = torch.tensor(CRACK_PIXEL_WEIGHT, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits, mask, is_known, pos_weight=weight)
