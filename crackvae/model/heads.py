"""Score heads: from one forward pass to an anomaly map and a score.

Shape letters: B tiles of one forward pass, P side of a tile at the input [px], N pixels of a tile.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from crackvae.config import SEGMENTER_HEADS
from crackvae.model.network import ModelSpec, Output, contrast, darker_than, median_of, pooled

# Share of the pixels that the heads `dark`, `crack` and `evidence` average over: of 0.25 to 8 %, 2 % ranked the
# validation images of METU best.
CRACK_SHARE = 0.02


@dataclass(frozen=True)
class Head:
    """How one forward pass becomes a score: the mean of the largest values of an anomaly map, raised to a power.

    Attributes:
        anomaly_map: from input (B, 1, P, P) and output of the network to a map (B, 1, P, P), not negative.
        unit: of the map.
        power: exponent of the map's values in the score.
        share: share of the pixels, those with the largest values, whose mean is the score.
    """

    anomaly_map: Callable[[Tensor, Output], Tensor]
    unit: str
    power: int
    share: float


def residual(input_B1PP: Tensor, output: Output) -> Tensor:
    """Absolute reconstruction error."""
    return (input_B1PP - output.reconstruction_B1PP).abs()


def darkness(input_B1PP: Tensor, output: Output) -> Tensor:
    """How much darker each pixel is than the tile's median, relative to it; 0 where lighter. Uses no network."""
    return contrast(input_B1PP).clamp(min=0)


def dark_crack(input_B1PP: Tensor, output: Output) -> Tensor:
    """Darkness times the segmenter's probability of a crack.

    Darkness is relative to the median, or to the reconstruction where that is lighter: if half of a tile lies in
    shadow, a crack in the lit half is no darker than the median. The reconstruction alone would reproduce a wide crack.
    """
    assert output.crack_B1PP is not None, "the settings allow the head `crack` only with a segmenter"
    reference_B1PP = torch.maximum(output.reconstruction_B1PP, median_of(input_B1PP))
    return darker_than(reference_B1PP, input_B1PP).clamp(min=0) * torch.sigmoid(output.crack_B1PP)


def evidence(input_B1PP: Tensor, output: Output) -> Tensor:
    """Evidence of a crack, -log(1 - probability) [nats]; unlike the probability it has no upper bound.

    For surfaces full of dark gaps, where darkness says little.
    """
    assert output.crack_B1PP is not None, "the settings allow the head `evidence` only with a segmenter"
    return functional.softplus(output.crack_B1PP)


_RESIDUAL_UNIT = "residual [grey level, black 0 to white 1]"

HEADS = {
    "mse": Head(residual, _RESIDUAL_UNIT, power=2, share=1.0),  # the published score
    "top": Head(residual, _RESIDUAL_UNIT, power=2, share=0.01),
    "dark": Head(darkness, "darkness [share of the brightness]", power=1, share=CRACK_SHARE),
    "crack": Head(dark_crack, "darkness x probability of a crack", power=1, share=CRACK_SHARE),
    "evidence": Head(evidence, "evidence of a crack [nats]", power=1, share=CRACK_SHARE),
}

# Baseline for every model: median minus 1st percentile of the pixels.
BASELINE = "one_line"

# Norm of the posterior mean: not a score; it separates new textures from known ones.
LATENT_NORM = "latent_norm"


def one_line(input_B1PP: Tensor) -> Tensor:
    """The baseline's score of each tile, float (B,)."""
    pixels_BN = input_B1PP.flatten(1)
    return pixels_BN.quantile(0.5, dim=1) - pixels_BN.quantile(0.01, dim=1)


def scores_of(head: str, input_B1PP: Tensor, output: Output) -> Tensor:
    """Score of each tile, float (B,): `head` is one of HEADS, BASELINE or LATENT_NORM."""
    if head == BASELINE:
        return one_line(input_B1PP)
    if head == LATENT_NORM:
        return output.mu_BZ.square().sum(dim=1).sqrt()
    chosen = HEADS[head]
    return pooled(chosen.anomaly_map(input_B1PP, output) ** chosen.power, chosen.share)


def heads_of(spec: ModelSpec) -> tuple[str, ...]:
    """The heads that a model supports: some need a segmenter."""
    return tuple(name for name in HEADS if spec.segmenter or name not in SEGMENTER_HEADS)
