"""Score heads: from one forward pass to an anomaly map and a score.

Shape letters: B tiles of one forward pass, P side of a tile at the input [px], N pixels of a tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from crackvae.config import SEGMENTER_HEADS
from crackvae.model.network import BLACK, Output, darker_than, enlarged, is_exporting, largest
from crackvae.model.spec import ModelSpec, Yardstick

# Share of the pixels, those with the highest logits, that the head `evidence` averages over.
CRACK_SHARE = 0.02
# Weights of the darkness to choose from, and the largest factor by which one may raise the 95th percentile of sound
# tiles. Darkness finds the gaping cracks of close-ups; on rough surfaces the shadows are dark too, and a large weight
# costs recall at a low false-alarm rate (docs/log.md).
DARKNESS_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
MAX_DARKNESS_RISE = 1.3
# The median of a tile is that of every fourth pixel of each row and column.
MEDIAN_STEP = 4
# Knots of a yardstick, and fewest tiles per knot.
MAX_KNOTS, TILES_PER_KNOT = 8, 60
# Share of the typical log evidence that scores are relative to. With all of it every surface had the same false-alarm
# rate, but recall at 1 % fell by .03; with this share the rates of three surfaces stay within 3 to 7 % at 5 %.
YARDSTICK_SHARE = 0.75
# Added to texture and evidence [nats] before taking their logarithm.
TEXTURE_OFFSET, EVIDENCE_OFFSET = 0.005, 1e-4
# Side of the squares in which the texture is measured [px]: below the scale of shading and stains, above the grain.
TEXTURE_PX = 8


@dataclass(frozen=True)
class Head:
    """How one forward pass becomes an anomaly map and a score.

    Attributes:
        anomaly_map: from the spec of the model, the input (B, 1, P, P) and the output of the network to a map
            (B, 1, P, P), not negative.
        unit: of the map.
        score: from the same to a score of each tile, float (B,).
    """

    anomaly_map: Callable[[ModelSpec, Tensor, Output], Tensor]
    unit: str
    score: Callable[[ModelSpec, Tensor, Output], Tensor]


def residual(spec: ModelSpec, input_B1PP: Tensor, output: Output) -> Tensor:
    """Absolute reconstruction error."""
    return (input_B1PP - enlarged(output.reconstruction_B1QQ, input_B1PP)).abs()


def mean_squared_residual(spec: ModelSpec, input_B1PP: Tensor, output: Output) -> Tensor:
    """The published score [squared grey level]."""
    return residual(spec, input_B1PP, output).square().mean(dim=(1, 2, 3))


def evidence(spec: ModelSpec, input_B1PP: Tensor, output: Output) -> Tensor:
    """Evidence of a crack, -log(1 - probability) [nats]; unlike the probability it has no upper bound."""
    return functional.softplus(crack_logits(spec, input_B1PP, output))


def mean_evidence(spec: ModelSpec, input_B1PP: Tensor, output: Output) -> Tensor:
    """Mean evidence of the CRACK_SHARE of the pixels that have the most."""
    # softplus() is increasing, so it is needed for the largest logits only.
    return functional.softplus(largest(crack_logits(spec, input_B1PP, output), CRACK_SHARE)).mean(dim=1)


def crack_logits(spec: ModelSpec, input_B1PP: Tensor, output: Output) -> Tensor:
    """Logit (B, 1, P, P) of each pixel being cracked: the segmenter's, raised where the pixel is darker than the tile.

    The segmenter alone is less certain of the widest cracks than of hairlines.
    """
    assert output.crack_B1PP is not None, "the settings allow the head `evidence` only with a segmenter"
    darkness_B1PP = darker_than(_median_of(input_B1PP), input_B1PP).clamp(min=0)
    return output.crack_B1PP + spec.darkness_weight * darkness_B1PP


def _median_of(input_B1PP: Tensor) -> Tensor:
    """Median of every MEDIAN_STEP-th pixel of each row and column, (B, 1, 1, 1)."""
    pixels_BN = input_B1PP[:, :, ::MEDIAN_STEP, ::MEDIAN_STEP].flatten(1)
    return _upper_median(pixels_BN).view(-1, 1, 1, 1)


def _upper_median(values_BN: Tensor) -> Tensor:
    """Upper median of each row, (B,); on a CPU with numpy, which takes a tenth of torch's time."""
    n = int(values_BN.shape[1])
    if values_BN.device.type == "cpu" and not is_exporting():
        return torch.from_numpy(np.partition(values_BN.numpy(), n // 2, axis=1)[:, n // 2])
    return values_BN.topk(n - n // 2, dim=1).values[:, -1]  # of the export: ONNX has no median


HEADS = {
    "mse": Head(residual, "residual [grey level, black 0 to white 1]", mean_squared_residual),
    "evidence": Head(evidence, "evidence of a crack [nats]", mean_evidence),
}

# Baseline for every model: median minus 1st percentile of the pixels.
BASELINE = "one_line"

# Not scores. Norm of the posterior mean: it separates new textures from known ones. Texture: see texture().
LATENT_NORM, TEXTURE = "latent_norm", "texture"


def one_line(input_B1PP: Tensor) -> Tensor:
    """The baseline's score of each tile, float (B,)."""
    pixels_BN = input_B1PP.flatten(1)
    return pixels_BN.quantile(0.5, dim=1) - pixels_BN.quantile(0.01, dim=1)


def texture(input_B1PP: Tensor) -> Tensor:
    """Texture of each tile, float (B,): median over squares of TEXTURE_PX px of their relative standard deviation.

    The median is insensitive to joints, holes and cracks in fewer than half of the squares.
    """
    squares = functional.pixel_unshuffle(input_B1PP, TEXTURE_PX)
    mean = squares.mean(dim=1)
    deviation = (squares - mean.unsqueeze(1)).square().mean(dim=1).sqrt()
    shares_BN = (deviation / (mean + BLACK)).flatten(1)
    return _upper_median(shares_BN)


def scores_of(spec: ModelSpec, head: str, input_B1PP: Tensor, output: Output) -> Tensor:
    """Score of each tile, float (B,): `head` is one of HEADS, BASELINE, LATENT_NORM or TEXTURE."""
    if head == BASELINE:
        return one_line(input_B1PP)
    if head == LATENT_NORM:
        return output.mu_BZ.square().sum(dim=1).sqrt()
    if head == TEXTURE:
        return texture(input_B1PP)
    return HEADS[head].score(spec, input_B1PP, output)


def model_scores(spec: ModelSpec, input_B1PP: Tensor, output: Output) -> Tensor:
    """Score of each tile by the model's own head, relative to its yardstick if it has one, float (B,)."""
    scores_B = scores_of(spec, spec.head, input_B1PP, output)
    if spec.yardstick is None:
        return scores_B
    return (scores_B + EVIDENCE_OFFSET) * (-log_typical(spec.yardstick, input_B1PP)).exp()


def log_typical(yardstick: Yardstick, input_B1PP: Tensor) -> Tensor:
    """Most of the log evidence of a sound tile of the same texture, float (B,)."""
    return _interpolated(yardstick, (texture(input_B1PP) + TEXTURE_OFFSET).log())


def _interpolated(yardstick: Yardstick, log_textures_B: Tensor) -> Tensor:
    """The line through the knots, constant beyond the first and the last, float (B,).

    As a sum of ramps it needs no search, which ONNX has no operator for.
    """
    xs, ys = yardstick.log_textures, yardstick.log_evidences
    line_B = torch.full_like(log_textures_B, ys[0])
    for (x, y), (next_x, next_y) in pairwise(zip(xs, ys, strict=True)):
        line_B = line_B + (next_y - y) / (next_x - x) * log_textures_B.clamp(x, next_x).sub(x)
    return line_B


def fit_yardstick(evidence_N: np.ndarray, texture_N: np.ndarray) -> Yardstick | None:
    """Most of the median log evidence of sound tiles, in bins of equal numbers by texture; None of too few tiles.

    Medians, because a few of the tiles may show a crack.

    Args:
        evidence_N: scores by the head `evidence`.
        texture_N: texture() of the same tiles.
    """
    n_knots = min(MAX_KNOTS, len(evidence_N) // TILES_PER_KNOT)
    order = np.argsort(texture_N, kind="stable")
    log_textures_N = np.log(texture_N[order] + TEXTURE_OFFSET)
    log_evidences_N = np.log(evidence_N[order] + EVIDENCE_OFFSET)
    knots: dict[float, float] = {}
    for chosen in np.array_split(np.arange(len(order)), max(1, n_knots)) if n_knots else []:
        knots.setdefault(
            float(np.median(log_textures_N[chosen])), YARDSTICK_SHARE * float(np.median(log_evidences_N[chosen]))
        )
    return Yardstick(tuple(knots), tuple(knots.values())) if knots else None


def heads_of(spec: ModelSpec) -> tuple[str, ...]:
    """The heads that a model supports: some need a segmenter."""
    return tuple(name for name in HEADS if spec.segmenter or name not in SEGMENTER_HEADS)
