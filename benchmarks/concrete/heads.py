"""Score of a tile from its map of logits, and its normalization by the texture of the tile.

Shape letters: B tiles of a batch, L pixels with the highest logits, N tiles of a calibration, P side of a tile [px].
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Share of the pixels, those with the highest logits, that `evidence` averages over.
EVIDENCE_SHARE = 0.02
# Side of the squares in which the texture is measured [px]: below the scale of shading and stains, above the grain.
TEXTURE_PX = 8
# Added to the brightness that is divided by, and to texture and evidence [nats] before taking their logarithm.
BRIGHTNESS_OFFSET, TEXTURE_OFFSET, EVIDENCE_OFFSET = 0.1, 0.005, 1e-4
# Added to an absolute deviation of the log evidence before taking its logarithm.
DEVIATION_OFFSET = 0.05


def evidence(logits_B1PP: Tensor) -> np.ndarray:
    """Mean of softplus(logit) = -log(1 - p) [nats] over the EVIDENCE_SHARE of the pixels with the highest p, (B,)."""
    values_BN = logits_B1PP.flatten(1).numpy()
    largest = max(1, round(EVIDENCE_SHARE * values_BN.shape[1]))
    # softplus is increasing, so it is needed for the largest logits only.
    top_BL = np.partition(values_BN, -largest, axis=1)[:, -largest:]
    mean_B: np.ndarray = np.logaddexp(0, top_BL).mean(axis=1)
    return mean_B


def texture(tiles_B1PP: Tensor) -> np.ndarray:
    """Texture of each tile, (B,): median over squares of TEXTURE_PX px of their relative standard deviation.

    The median is insensitive to joints, holes and cracks in fewer than half of the squares.
    """
    mean = functional.avg_pool2d(tiles_B1PP, TEXTURE_PX)
    variance = (functional.avg_pool2d(tiles_B1PP.square(), TEXTURE_PX) - mean.square()).clamp(min=0)
    share = torch.sqrt(variance) / (mean + BRIGHTNESS_OFFSET)
    median_B: np.ndarray = np.median(share.flatten(1).numpy(), axis=1)
    return median_B


@dataclass(frozen=True)
class TextureNormalization:
    """Mean and spread of the log evidence of sound tiles as functions of their texture.

    Sound gravel has more evidence than a smooth sound wall, so one threshold has different false-alarm rates on them.
    Mean and log spread are linear in the log texture, fitted on sound tiles that were not used for training.

    Attributes:
        mean: intercept and slope of the mean.
        log_spread: intercept and slope of the logarithm of the absolute deviation.
    """

    mean: tuple[float, float]
    log_spread: tuple[float, float]

    def normalize(self, evidence_B: np.ndarray, texture_B: np.ndarray) -> np.ndarray:
        """Log evidence minus its mean on sound tiles of this texture, divided by their spread, (B,)."""
        x_B = np.log(texture_B + TEXTURE_OFFSET)
        expected_B = self.mean[0] + self.mean[1] * x_B
        spread_B = np.exp(self.log_spread[0] + self.log_spread[1] * x_B)
        normalized: np.ndarray = (np.log(evidence_B + EVIDENCE_OFFSET) - expected_B) / spread_B
        return normalized


def fit_normalization(evidence_N: np.ndarray, texture_N: np.ndarray, weights_N: np.ndarray) -> TextureNormalization:
    """Fit on sound tiles by weighted least squares.

    Args:
        weights_N: sample weights; with equal sums per surface no surface dominates by its number of tiles.
    """
    x_N, y_N = np.log(texture_N + TEXTURE_OFFSET), np.log(evidence_N + EVIDENCE_OFFSET)
    mean = _line(x_N, y_N, weights_N)
    deviations_N = np.abs(y_N - mean[0] - mean[1] * x_N)
    return TextureNormalization(mean, _line(x_N, np.log(deviations_N + DEVIATION_OFFSET), weights_N))


def _line(x_N: np.ndarray, y_N: np.ndarray, weights_N: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of the weighted least-squares line."""
    slope, intercept = np.polyfit(x_N, y_N, 1, w=np.sqrt(weights_N))
    return float(intercept), float(slope)
